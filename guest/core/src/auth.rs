//! Authentication: who asks, learned from the credential in the `authorization` header.

use std::ops::ControlFlow::{Break, Continue};

use crate::{
    Call, Knowledge, Principal, Step,
    cache::KEY_RULES,
    denial::{internal, unauthorized, unavailable},
    fact, fact_kind,
    key::{KeyRecord, Presented},
};

const MISSING: &str = "Authentication Fails (no API key: send 'Authorization: Bearer lk_...')";
const REFUSED: &str = "Authentication Fails (the API key is invalid)";
const EXPIRED: &str = "Authentication Fails (the API key has expired)";

/// Lets the call pass with its principal in the draft, or refuses it.
pub fn admit(mut call: Call, known: &dyn Knowledge) -> Step {
    let Some(token) = call.head.header("authorization").and_then(bearer) else {
        return Break(unauthorized(MISSING).into());
    };
    let Some(presented) = Presented::parse(token) else {
        return Break(unauthorized(REFUSED).into());
    };
    let stored = fact(&call, known, fact_kind::API_KEY, presented.id)?;
    if let Some(error) = stored.error {
        return Break(unavailable(format!("the key store cannot be reached: {error}"), 1).into());
    }
    let record = match stored.value.as_deref().map(serde_json::from_slice::<KeyRecord>) {
        None => return Break(unauthorized(REFUSED).into()),
        Some(Err(_)) => return Break(internal("the stored API key cannot be read").into()),
        Some(Ok(record)) => record,
    };
    if !record.matches(&presented) {
        return Break(unauthorized(REFUSED).into());
    }
    if record.expires_at_ms.is_some_and(|end| end <= call.now_ms) {
        return Break(unauthorized(EXPIRED).into());
    }
    if let (Some(memo), Some(end)) = (&mut call.draft.memo, record.expires_at_ms) {
        // What is remembered of a key ends with it.
        memo.ttl_ms = memo.ttl_ms.min(end - call.now_ms);
    }
    call.draft.filters = record.filters;
    if let Some(rules) = record.cache.and_then(|rules| serde_json::to_string(&rules).ok()) {
        call.draft.extra.push((KEY_RULES.into(), rules));
    }
    call.draft.principal =
        Some(Principal { tenant: record.tenant, key_id: record.id, user: record.user, method: "api-key".into() });
    Continue(call)
}

/// The token of a bearer credential (RFC 6750, section 2.1); the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
