//! The refusals guests give, each with the status and code the API documents.

use crate::types::{Denial, Pairs};

/// The parameter an error is about, in [`Denial::extra`].
pub const PARAM: &str = "param";

fn denial(status: u16, code: &str, message: impl Into<String>) -> Denial {
    Denial { status, code: code.into(), message: message.into(), ..Denial::default() }
}

/// 401: no credential, or one that does not open the door. The message never says which part was wrong.
pub fn unauthorized(message: &str) -> Denial {
    let challenge = ("www-authenticate".to_string(), "Bearer realm=\"littoral\"".to_string());
    Denial { headers: vec![challenge], ..denial(401, "invalid_api_key", message) }
}

/// 400: the request cannot be understood; `param` names the field at fault, if one is.
pub fn invalid(param: Option<&str>, message: impl Into<String>) -> Denial {
    let extra: Pairs = param.map(|p| (PARAM.to_string(), p.to_string())).into_iter().collect();
    Denial { extra, ..denial(400, "invalid_request_error", message) }
}

/// 400: no node of the fleet serves this model.
pub fn unknown_model(name: &str) -> Denial {
    let message = format!("Model Not Exist: '{name}' is not served here; GET /v1/models lists what is");
    Denial { code: "model_not_found".into(), ..invalid(Some("model"), message) }
}

/// 404: no such path.
pub fn not_found(path: &str) -> Denial {
    denial(
        404,
        "not_found",
        format!(
            "no such endpoint: {path}; this server answers /v1/chat/completions, /v1/models and, where it is set up, /retrieval"
        ),
    )
}

/// 405: the path exists, the method does not fit.
pub fn method_not_allowed(method: &str, path: &str, allow: &str) -> Denial {
    let message = format!("{path} does not answer {method}; use {allow}");
    Denial { headers: vec![("allow".into(), allow.into())], ..denial(405, "method_not_allowed", message) }
}

/// 503: a fact could not be learned, or no node is there; worth a retry after `seconds`.
pub fn unavailable(message: impl Into<String>, seconds: u32) -> Denial {
    let headers = vec![("retry-after".to_string(), seconds.to_string())];
    Denial { headers, ..denial(503, "service_unavailable", message) }
}

/// 500: the policy itself is wrong (a stored record that cannot be read).
pub fn internal(message: impl Into<String>) -> Denial {
    denial(500, "internal_error", message)
}
