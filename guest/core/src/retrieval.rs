//! `POST /retrieval`: Dify's External Knowledge API, checked and put into one canonical form, like [`crate::chat`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Call, Denial, Outcome, Want,
    denial::{internal, invalid},
    operation,
};

/// Longest query, bytes.
const MAX_QUERY: usize = 64 << 10;
/// Longest `knowledge_id`, bytes.
const MAX_ID: usize = 512;
/// Most records anybody asks for.
const MAX_TOP_K: u32 = 1000;

/// The canonical request. Serialised in the order of its fields, with defaults written out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalRequest {
    pub knowledge_id: String,
    pub query: String,
    pub retrieval_setting: RetrievalSetting,
    /// Conditions on the records' metadata, as the client wrote them; its objects sorted by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_condition: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalSetting {
    pub top_k: u32,
    /// 0..=1
    pub score_threshold: f64,
}

#[derive(Deserialize)]
struct Raw {
    knowledge_id: Option<String>,
    query: Option<String>,
    retrieval_setting: Option<RawSetting>,
    metadata_condition: Option<Value>,
}

#[derive(Deserialize)]
struct RawSetting {
    top_k: Option<u32>,
    score_threshold: Option<f64>,
}

impl RetrievalRequest {
    /// Reads and checks a client's body.
    pub fn from_client(body: &[u8]) -> Result<Self, Denial> {
        let raw: Raw = serde_json::from_slice(body)
            .map_err(|e| invalid(None, format!("the body is not a JSON retrieval request: {e}")))?;
        let text = |name: &str, value: Option<String>, max: usize| {
            let value = value.filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| invalid(Some(name), format!("'{name}' is missing")))?;
            if value.len() > max {
                return Err(invalid(Some(name), format!("'{name}' may have up to {max} bytes")));
            }
            Ok(value)
        };
        let setting = raw.retrieval_setting;
        let top_k = setting.as_ref().and_then(|s| s.top_k).unwrap_or(2);
        if !(1..=MAX_TOP_K).contains(&top_k) {
            return Err(invalid(Some("retrieval_setting"), format!("'top_k' must be 1..{MAX_TOP_K}, not {top_k}")));
        }
        let score_threshold = setting.and_then(|s| s.score_threshold).unwrap_or(0.0);
        if !(0.0..=1.0).contains(&score_threshold) {
            let message = format!("'score_threshold' must be 0..1, not {score_threshold}");
            return Err(invalid(Some("retrieval_setting"), message));
        }
        Ok(Self {
            knowledge_id: text("knowledge_id", raw.knowledge_id, MAX_ID)?,
            query: text("query", raw.query, MAX_QUERY)?,
            retrieval_setting: RetrievalSetting { top_k, score_threshold: score_threshold + 0.0 },
            metadata_condition: raw.metadata_condition.filter(|condition| !condition.is_null()).map(sorted),
        })
    }

    /// The canonical form as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a retrieval request has no map with keys that are not strings")
    }
}

fn sorted(mut condition: Value) -> Value {
    condition.sort_all_objects();
    condition
}

/// The request, from the draft where an earlier layer left it, else from the body and into the draft.
pub fn read(call: &mut Call) -> Result<RetrievalRequest, Outcome> {
    if call.draft.operation == operation::RETRIEVAL {
        return serde_json::from_slice(&call.draft.request)
            .map_err(|e| internal(format!("a policy layer left a draft that is not canonical: {e}")).into());
    }
    let Some(body) = call.body.as_deref() else {
        return Err(Outcome::Need(vec![Want::Body]));
    };
    let request = RetrievalRequest::from_client(body)?;
    call.draft.request = request.to_bytes();
    call.draft.operation = operation::RETRIEVAL.into();
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<RetrievalRequest, String> {
        RetrievalRequest::from_client(body.as_bytes()).map_err(|denial| denial.message)
    }

    #[test]
    fn every_way_to_ask_the_same_is_one_form() {
        let short = read(r#"{"query":"q","knowledge_id":"k"}"#).unwrap();
        let long = r#"{ "knowledge_id":"k", "metadata_condition":null, "more":1,
            "retrieval_setting":{"score_threshold":-0.0,"top_k":2}, "query":"q" }"#;
        assert_eq!(read(long).unwrap().to_bytes(), short.to_bytes());
        let condition =
            |fields: &str| format!(r#"{{"query":"q","knowledge_id":"k","metadata_condition":{{{fields}}}}}"#);
        let (ab, ba) = (condition(r#""a":1,"b":2"#), condition(r#""b":2,"a":1"#));
        assert_eq!(read(&ab).unwrap().to_bytes(), read(&ba).unwrap().to_bytes());
        assert_ne!(read(&ab).unwrap().to_bytes(), short.to_bytes());
    }

    #[test]
    fn what_cannot_be_asked_is_refused_by_name() {
        for (body, named) in [
            ("{}", "knowledge_id"),
            (r#"{"knowledge_id":"k"}"#, "query"),
            (r#"{"knowledge_id":"k","query":""}"#, "query"),
            (r#"{"knowledge_id":"k","query":"q","retrieval_setting":{"top_k":0}}"#, "top_k"),
            (r#"{"knowledge_id":"k","query":"q","retrieval_setting":{"score_threshold":2}}"#, "score_threshold"),
            (r#"{"knowledge_id":7}"#, "JSON"),
            ("[", "JSON"),
        ] {
            let message = read(body).unwrap_err();
            assert!(message.contains(named), "{body}: {message}");
        }
    }
}
