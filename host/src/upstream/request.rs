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

/// What was said of an answer that broke.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Empty when it is to begin.
    pub text: String,
    /// Parts it came in, which are tokens with most servers.
    pub parts: u32,
}

/// The body of the request. None when the canonical request is no JSON object, which no policy writes, or when its answer
/// cannot go on after what was said: the server has no way to, its grammar would begin anew, or no token is left.
pub fn body(canonical: &[u8], model: &str, said: &Said, how: Continue) -> Option<Vec<u8>> {
    let mut request: Map<String, Value> = serde_json::from_slice(canonical).ok()?;
    request.insert("model".into(), model.into());
    request.insert("stream".into(), true.into());
    request.insert("stream_options".into(), json!({ "include_usage": true }));
    if !said.text.is_empty() {
        let mut message = json!({ "role": "assistant", "content": said.text });
        match how {
            Continue::None => return None,
            Continue::Prefix => message["prefix"] = true.into(),
            Continue::Message => {
                request.insert("continue_final_message".into(), true.into());
                request.insert("add_generation_prompt".into(), false.into());
            }
        }
        if request.contains_key("response_format") {
            return None;
        }
        if let Some(most) = request.get("max_tokens").and_then(Value::as_u64) {
            let left = most.checked_sub(said.parts.into()).filter(|left| *left > 0)?;
            request.insert("max_tokens".into(), left.into());
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

    fn said(text: &str, parts: u32) -> Said {
        Said { text: text.into(), parts }
    }

    fn asked(text: &str, how: Continue) -> Value {
        serde_json::from_slice(&body(CANONICAL, "org/m", &said(text, 1), how).unwrap()).unwrap()
    }

    #[test]
    fn what_matters_is_asked_and_the_answer_always_streams() {
        let asked = asked("", Continue::None);
        assert_eq!((&asked["model"], &asked["stream"], &asked["seed"]), (&json!("org/m"), &json!(true), &json!(3)));
        assert_eq!(asked["stream_options"], json!({"include_usage": true}));
        assert_eq!(asked["messages"].as_array().unwrap().len(), 1);
        for no_object in [&b"[]"[..], b""] {
            assert!(body(no_object, "m", &Said::default(), Continue::None).is_none());
        }
    }

    #[test]
    fn a_broken_answer_goes_on_as_the_server_can() {
        let prefix = asked("Hello", Continue::Prefix);
        assert_eq!(prefix["messages"][1], json!({"role": "assistant", "content": "Hello", "prefix": true}));
        let message = asked("Hello", Continue::Message);
        assert_eq!(message["messages"][1], json!({"role": "assistant", "content": "Hello"}));
        assert_eq!(
            (&message["continue_final_message"], &message["add_generation_prompt"]),
            (&json!(true), &json!(false))
        );
        assert!(body(CANONICAL, "m", &said("Hello", 1), Continue::None).is_none());
        assert_eq!(asked("", Continue::Prefix), asked("", Continue::None), "nothing was said: it begins");
    }

    #[test]
    fn what_goes_on_says_no_more_than_was_asked_for_and_keeps_its_form() {
        let with = |extra: &str| format!(r#"{{"model":"m","messages":[]{extra}}}"#);
        let go_on = |extra: &str| body(with(extra).as_bytes(), "m", &said("Hello", 3), Continue::Prefix);
        let left = |most: u32| {
            let body = go_on(&format!(r#","max_tokens":{most}"#))?;
            serde_json::from_slice::<Value>(&body).unwrap()["max_tokens"].as_u64()
        };
        assert_eq!((left(10), left(4), left(3), left(1)), (Some(7), Some(1), None, None));
        assert!(go_on(r#","response_format":{"type":"json_object"}"#).is_none());
    }
}
