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

impl Continue {
    /// Whether it goes on after this. DeepSeek's API takes reasoning that is over; templates elsewhere leave it out.
    pub fn follows(self, said: &Said) -> bool {
        match self {
            Self::None => false,
            Self::Prefix => said.reasoning.is_empty() || !said.text.is_empty(),
            Self::Message => said.reasoning.is_empty(),
        }
    }
}

/// What was said of an answer that broke.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    pub text: String,
    /// Before the text.
    pub reasoning: String,
    /// Tokens it took, or parts it came in, which are tokens with most servers.
    pub tokens: u32,
    /// Of those, the ones of reasoning.
    pub reasoned: u32,
    /// Position of what comes next, from 0.
    pub at: u32,
}

impl Said {
    /// Whether the answer is to begin.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.reasoning.is_empty()
    }
}

/// The body of the request. None when the canonical request is no JSON object with messages, which no policy writes, or
/// when the server cannot go on after what was said.
pub fn body(canonical: &[u8], model: &str, said: &Said, how: Continue) -> Option<Vec<u8>> {
    let mut request: Map<String, Value> = serde_json::from_slice(canonical).ok()?;
    request.insert("model".into(), model.into());
    request.insert("stream".into(), true.into());
    request.insert("stream_options".into(), json!({ "include_usage": true }));
    if !said.is_empty() {
        let mut message = json!({ "role": "assistant", "content": said.text });
        if !said.reasoning.is_empty() {
            message["reasoning_content"] = said.reasoning.as_str().into();
        }
        match how {
            Continue::None => return None,
            Continue::Prefix => message["prefix"] = true.into(),
            Continue::Message => {
                request.insert("continue_final_message".into(), true.into());
                request.insert("add_generation_prompt".into(), false.into());
            }
        }
        if let Some(most) = request.get("max_tokens").and_then(Value::as_u64) {
            request.insert("max_tokens".into(), most.saturating_sub(said.tokens.into()).into());
        }
        request.get_mut("messages")?.as_array_mut()?.push(message);
    }
    serde_json::to_vec(&request).ok()
}

/// How many answers a canonical request asks for.
pub fn choices(canonical: &[u8]) -> u32 {
    #[derive(Deserialize)]
    struct Asked {
        n: Option<u32>,
    }
    serde_json::from_slice::<Asked>(canonical).ok().and_then(|asked| asked.n).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANONICAL: &[u8] =
        br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0.5,"top_p":1.0,"seed":3}"#;

    fn said(text: &str, tokens: u32) -> Said {
        Said { text: text.into(), tokens, ..Said::default() }
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
    fn what_goes_on_says_no_more_than_was_asked_for() {
        let left = |most: u32| {
            let request = format!(r#"{{"model":"m","messages":[],"max_tokens":{most}}}"#);
            let body = body(request.as_bytes(), "m", &said("Hello", 3), Continue::Prefix)?;
            serde_json::from_slice::<Value>(&body).unwrap()["max_tokens"].as_u64()
        };
        assert_eq!((left(10), left(4)), (Some(7), Some(1)));
    }

    #[test]
    fn reasoning_is_told_where_it_is_over() {
        let reasoned = |text: &str| Said { reasoning: "hm".into(), ..said(text, 3) };
        let body = body(CANONICAL, "m", &reasoned("Hello"), Continue::Prefix).unwrap();
        let asked: Value = serde_json::from_slice(&body).unwrap();
        let message = json!({"role": "assistant", "content": "Hello", "reasoning_content": "hm", "prefix": true});
        assert_eq!(asked["messages"][1], message);
        assert!(Continue::Prefix.follows(&reasoned("Hello")) && !Continue::Prefix.follows(&reasoned("")));
        assert!(Continue::Message.follows(&said("Hello", 1)) && !Continue::Message.follows(&reasoned("Hello")));
        assert!(!Continue::None.follows(&said("Hello", 1)));
    }
}
