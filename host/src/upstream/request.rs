//! What an OpenAI-compatible server is asked: the canonical request under its own name for the model, always as a
//! stream with usage, and where a broken answer is to go on, what was said of it.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// How a server goes on with an answer that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Continue {
    /// It cannot.
    #[default]
    None,
    /// A last assistant message with `prefix` (DeepSeek's beta API).
    Prefix,
    /// A last assistant message with `continue_final_message` (vLLM, SGLang).
    Message,
}

/// The body of the request. None when the canonical request is no JSON object, which no policy writes.
pub fn body(canonical: &[u8], model: &str, said: Option<(&str, Continue)>) -> Option<Vec<u8>> {
    let mut request: Map<String, Value> = serde_json::from_slice(canonical).ok()?;
    request.insert("model".into(), model.into());
    request.insert("stream".into(), true.into());
    request.insert("stream_options".into(), json!({ "include_usage": true }));
    if let Some((text, how)) = said.filter(|(text, _)| !text.is_empty()) {
        let mut message = json!({ "role": "assistant", "content": text });
        match how {
            Continue::None => return None,
            Continue::Prefix => message["prefix"] = true.into(),
            Continue::Message => {
                request.insert("continue_final_message".into(), true.into());
                request.insert("add_generation_prompt".into(), false.into());
            }
        }
        request.get_mut("messages")?.as_array_mut()?.push(message);
    }
    serde_json::to_vec(&request).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANONICAL: &[u8] =
        br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0.5,"top_p":1.0,"seed":3}"#;

    fn asked(said: Option<(&str, Continue)>) -> Value {
        serde_json::from_slice(&body(CANONICAL, "org/m", said).unwrap()).unwrap()
    }

    #[test]
    fn what_matters_is_asked_and_the_answer_always_streams() {
        let asked = asked(None);
        assert_eq!((&asked["model"], &asked["stream"], &asked["seed"]), (&json!("org/m"), &json!(true), &json!(3)));
        assert_eq!(asked["stream_options"], json!({"include_usage": true}));
        assert_eq!(asked["messages"].as_array().unwrap().len(), 1);
        assert!(body(b"[]", "m", None).is_none() && body(b"", "m", None).is_none());
    }

    #[test]
    fn a_broken_answer_goes_on_as_the_server_can() {
        let prefix = asked(Some(("Hello", Continue::Prefix)));
        assert_eq!(prefix["messages"][1], json!({"role": "assistant", "content": "Hello", "prefix": true}));
        let message = asked(Some(("Hello", Continue::Message)));
        assert_eq!(message["messages"][1], json!({"role": "assistant", "content": "Hello"}));
        assert_eq!(
            (&message["continue_final_message"], &message["add_generation_prompt"]),
            (&json!(true), &json!(false))
        );
        assert!(body(CANONICAL, "m", Some(("Hello", Continue::None))).is_none());
        assert_eq!(asked(Some(("", Continue::Prefix))), asked(None), "nothing was said: it begins");
    }
}
