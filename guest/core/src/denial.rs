//! The refusals guests give, each with the status and code the API documents.

use crate::types::{Denial, Outcome, Pairs, Principal};

/// The parameter an error is about, in [`Denial::extra`].
pub const PARAM: &str = "param";

/// Names in [`Denial::audit`] and a plan's that say who was refused and why, for the host's log.
pub mod audit_name {
    pub const TENANT: &str = "tenant";
    pub const KEY_ID: &str = "key_id";
    pub const USER: &str = "user";
    pub const METHOD: &str = "method";
    /// The code of a refusal that is a reply, in a format of its own; and why it was refused.
    pub const ERROR: &str = "error";
    pub const REASON: &str = "reason";
    /// All that say who.
    pub const IDENTITY: [&str; 4] = [TENANT, KEY_ID, USER, METHOD];
}

/// Says whom the outcome refuses, if it refuses.
pub fn of(principal: &Principal, mut outcome: Outcome) -> Outcome {
    if let Outcome::Denial(denial) = &mut outcome {
        let Principal { tenant, key_id, user, method } = principal;
        let values = [tenant, key_id, user, method];
        denial
            .audit
            .extend(audit_name::IDENTITY.iter().zip(values).map(|(name, value)| (name.to_string(), value.clone())));
    }
    outcome
}

fn denial(status: u16, code: &str, message: impl Into<String>) -> Denial {
    Denial { status, code: code.into(), message: message.into(), ..Denial::default() }
}

/// 401: no credential, or one that does not open the door. The message never says which part was wrong.
pub fn unauthorized(message: &str) -> Denial {
    let challenge = ("www-authenticate".to_string(), "Bearer realm=\"littoral\"".to_string());
    Denial { headers: vec![challenge], ..denial(401, "invalid_api_key", message) }
}

/// 401: a token that is not taken (RFC 6750, section 3.1), and why.
pub fn invalid_token(why: &str) -> Denial {
    let challenge = format!("Bearer realm=\"littoral\", error=\"invalid_token\", error_description=\"{why}\"");
    let headers = vec![("www-authenticate".to_string(), challenge)];
    Denial { headers, ..denial(401, "invalid_token", format!("Authentication Fails ({why})")) }
}

/// 401: known, and not known well enough (RFC 9470, section 3).
pub fn challenge(acr: &str, max_age_s: u64) -> Denial {
    let value = format!(
        "Bearer realm=\"littoral\", error=\"insufficient_user_authentication\", \
         error_description=\"a second factor is needed\", acr_values=\"{acr}\", max_age=\"{max_age_s}\""
    );
    let message =
        "a second factor is needed: POST /v1/auth/step-up with {\"code\": \"123456\"}, then use the token it gives";
    let headers = vec![("www-authenticate".to_string(), value)];
    Denial { headers, ..denial(401, "insufficient_user_authentication", message) }
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

/// 403: known, and not allowed this. `code` says what stands in the way.
pub fn forbidden(code: &str, message: impl Into<String>) -> Denial {
    denial(403, code, message)
}

/// 429: a rate or a number of requests under way is used up; a retry helps after `seconds`, if anyone can say.
pub fn limited(message: impl Into<String>, seconds: Option<u64>) -> Denial {
    let headers = seconds.map(|s| ("retry-after".to_string(), s.to_string())).into_iter().collect();
    Denial { headers, ..denial(429, "rate_limit_exceeded", message) }
}

/// 402: the budget is used up.
pub fn insufficient_balance(message: impl Into<String>) -> Denial {
    denial(402, "insufficient_balance", message)
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
