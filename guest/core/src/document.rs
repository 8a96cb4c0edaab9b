//! The documents every host writes alike: the error object and the list of models.

use serde::Serialize;

use crate::{Denial, denial::PARAM};

#[derive(Serialize)]
struct Document<'a> {
    error: Object<'a>,
}

#[derive(Serialize)]
struct Object<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: &'a str,
}

/// The body of an error answer, and the data of an error event in a stream.
pub fn error(status: u16, code: &str, message: &str, param: Option<&str>) -> Vec<u8> {
    let document = Document { error: Object { message, r#type: kind(status), param, code } };
    serde_json::to_vec(&document).expect("strings always serialise")
}

/// The body of the answer to a refused call.
pub fn refusal(denial: &Denial) -> Vec<u8> {
    let param = denial.extra.iter().find(|(name, _)| name == PARAM).map(|(_, value)| value.as_str());
    error(denial.status, &denial.code, &denial.message, param)
}

/// `type` of the error object. Clients choose their exception by it, so a 401, 402 or 5xx never says
/// `invalid_request_error`.
pub fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "insufficient_balance_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    object: &'static str,
    /// Unix seconds; some clients refuse a model without it.
    created: u64,
    owned_by: &'static str,
}

impl<'a> Entry<'a> {
    fn new(id: &'a str, created: u64) -> Self {
        Self { id, object: "model", created, owned_by: "littoral" }
    }
}

/// The list of (name, created in Unix seconds), in the order given.
pub fn models<'a>(models: impl IntoIterator<Item = (&'a str, u64)>) -> Vec<u8> {
    let data = models.into_iter().map(|(name, created)| Entry::new(name, created)).collect();
    serde_json::to_vec(&List { object: "list", data }).expect("strings and numbers always serialise")
}

/// One model.
pub fn model(name: &str, created: u64) -> Vec<u8> {
    serde_json::to_vec(&Entry::new(name, created)).expect("strings and numbers always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denial;

    #[test]
    fn a_refusal_names_its_parameter_and_never_the_wrong_type() {
        let expected = br#"{"error":{"message":"'n' is \"odd\"\n","type":"invalid_request_error","param":"n","code":"invalid_request_error"}}"#;
        assert_eq!(refusal(&denial::invalid(Some("n"), "'n' is \"odd\"\n")), expected);
        for status in [401, 402, 403, 429, 500, 503, 504] {
            assert_ne!(kind(status), "invalid_request_error");
        }
        for status in [400, 404, 405, 413, 422] {
            assert_eq!(kind(status), "invalid_request_error");
        }
    }

    #[test]
    fn a_list_of_one_and_of_none() {
        let one = r#"{"id":"a","object":"model","created":1,"owned_by":"littoral"}"#;
        assert_eq!(models([("a", 1)]), format!(r#"{{"object":"list","data":[{one}]}}"#).as_bytes());
        assert_eq!(models([]), br#"{"object":"list","data":[]}"#);
        assert_eq!(model("a", 1), one.as_bytes());
    }
}
