//! Errors as the API writes them: one body, one table of types, one mapping from a node's code to a status.

use bytes::Bytes;
use littoral_core::document;

pub use littoral_core::document::kind;

/// The body of an error answer, and the data of an error event in a stream.
pub fn body(status: u16, code: &str, message: &str, param: Option<&str>) -> Bytes {
    document::error(status, code, message, param).into()
}

/// The body for an error event of a node.
pub fn of_node(error: &littoral_proto::v1::Error) -> (u16, Bytes) {
    let status = status(&error.code);
    (status, body(status, &error.code, &error.message, None))
}

/// HTTP status for the `code` of a node's error event.
pub fn status(code: &str) -> u16 {
    match code {
        code::INVALID_REQUEST | code::CONTEXT_LENGTH_EXCEEDED | code::MODEL_NOT_FOUND => 400,
        code::OVERLOADED | code::UNAVAILABLE | code::CANNOT_RESUME => 503,
        code::DEADLINE_EXCEEDED => 504,
        _ => 500,
    }
}

/// The codes nodes give.
pub mod code {
    pub const INVALID_REQUEST: &str = "invalid_request_error";
    /// Prompt longer than the model's context.
    pub const CONTEXT_LENGTH_EXCEEDED: &str = "context_length_exceeded";
    /// This node does not serve the model asked for.
    pub const MODEL_NOT_FOUND: &str = "model_not_found";
    /// Queue full or draining: another node, or a later try, can answer.
    pub const OVERLOADED: &str = "overloaded";
    /// The node cannot be reached, or was lost before its answer's end.
    pub const UNAVAILABLE: &str = "service_unavailable";
    /// The node cannot go on after the text of another's answer; who knows that answer otherwise may.
    pub const CANNOT_RESUME: &str = "cannot_resume";
    pub const DEADLINE_EXCEEDED: &str = "deadline_exceeded";
    pub const INTERNAL: &str = "internal_error";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_the_documented_one() {
        let body = body(400, "invalid_request_error", "'model' is \"missing\"\n", Some("model"));
        let expected = r#"{"error":{"message":"'model' is \"missing\"\n","type":"invalid_request_error","param":"model","code":"invalid_request_error"}}"#;
        assert_eq!(body, expected);
    }

    #[test]
    fn every_status_has_the_type_clients_expect() {
        for status in [400, 404, 405, 413, 422] {
            assert_eq!(kind(status), "invalid_request_error");
        }
        let others = [(401, "authentication_error"), (402, "insufficient_balance_error"), (429, "rate_limit_error")];
        for (status, expected) in others {
            assert_eq!(kind(status), expected);
        }
        for status in [500, 503, 504] {
            assert_eq!(kind(status), "server_error");
        }
    }

    #[test]
    fn node_codes_have_one_status() {
        let table = [
            (code::INVALID_REQUEST, 400),
            (code::CONTEXT_LENGTH_EXCEEDED, 400),
            (code::MODEL_NOT_FOUND, 400),
            (code::OVERLOADED, 503),
            (code::UNAVAILABLE, 503),
            (code::CANNOT_RESUME, 503),
            (code::DEADLINE_EXCEEDED, 504),
            (code::INTERNAL, 500),
            ("something new", 500),
        ];
        for (code, expected) in table {
            assert_eq!(status(code), expected, "{code}");
        }
    }
}
