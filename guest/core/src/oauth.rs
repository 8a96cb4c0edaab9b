//! `POST /oauth/token` (RFC 6749): which client asks for a token, and how. The token itself is the host's to mint.
//!
//! A client is an API key: its id is `client_id`, the key itself `client_secret`, in `Authorization: Basic` or in the form.

use std::ops::ControlFlow::{Break, Continue};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    Body, Call, Knowledge, Outcome, Plan, Principal, Reply, Step, Want, auth, denial::audit_name, extra_name,
    key::Presented, leave,
};

/// Longest form, bytes.
const MAX_FORM: usize = 16 << 10;

/// What the host's service `oauth-token` is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "grant_type")]
pub enum Grant {
    ClientCredentials,
    RefreshToken { refresh_token: String },
}

/// The answer to a request that is refused (RFC 6749, section 5.2).
pub fn refusal(status: u16, error: &str, description: &str) -> Reply {
    let body = serde_json::json!({"error": error, "error_description": description});
    let mut headers = vec![("cache-control".to_string(), "no-store".to_string())];
    if status == 401 {
        headers.push(("www-authenticate".into(), "Basic realm=\"littoral\"".into()));
    }
    let bytes = serde_json::to_vec(&body).expect("strings always serialise");
    let said = [(audit_name::ERROR, error), (audit_name::REASON, description)];
    let audit = said.map(|(name, value)| (name.to_string(), value.to_string())).to_vec();
    Reply { status, headers, body: Body::Bytes(bytes), plan: Plan { audit, ..Plan::default() } }
}

fn refused(status: u16, error: &str, description: &str) -> Step {
    Break(Outcome::Reply(Box::new(refusal(status, error, description))))
}

/// Lets a client pass with its grant in the draft, or refuses it.
pub fn admit(mut call: Call, known: &dyn Knowledge) -> Step {
    if call.head.method != "POST" {
        // The router says which method it takes.
        return Continue(call);
    }
    let Some(body) = &call.body else { return Break(Outcome::Need(vec![Want::Body])) };
    if body.len() > MAX_FORM {
        return refused(400, "invalid_request", "the form is too long");
    }
    let Some(form) = form(body) else {
        return refused(400, "invalid_request", "the body is no form, or names something twice");
    };
    let field = |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let basic = call.head.header("authorization").map(basic);
    let (id, secret) = match (&basic, field("client_secret")) {
        (Some(Some((id, secret))), None) => (Some(id.as_str()), secret.as_str()),
        (None, Some(secret)) => (field("client_id"), secret),
        (Some(_), Some(_)) => return refused(400, "invalid_request", "two credentials were sent"),
        _ => return refused(401, "invalid_client", "the client is unknown or its secret is wrong"),
    };
    let unknown = "the client is unknown or its secret is wrong";
    let Some(presented) = Presented::parse(secret).filter(|key| id.is_none_or(|id| id == key.id)) else {
        return refused(401, "invalid_client", unknown);
    };
    let record = match auth::key(&call, known, &presented) {
        Continue(record) => record,
        Break(Outcome::Denial(denial)) if denial.status == 401 => return refused(401, "invalid_client", unknown),
        Break(other) => return Break(other),
    };
    if !auth::comes_from(&record.networks, &call.peer) {
        return refused(401, "invalid_client", "the client may not ask from this network");
    }
    let grant = match field("grant_type") {
        Some("client_credentials") => Grant::ClientCredentials,
        Some("refresh_token") => match field("refresh_token") {
            Some(token) => Grant::RefreshToken { refresh_token: token.into() },
            None => return refused(400, "invalid_request", "'refresh_token' is missing"),
        },
        Some(_) => return refused(400, "unsupported_grant_type", "client_credentials and refresh_token are known"),
        None => return refused(400, "invalid_request", "'grant_type' is missing"),
    };
    auth::charge_request(&mut call, known, &record)?;
    call.draft.principal =
        Some(Principal { tenant: record.tenant, key_id: record.id, user: record.user, method: "client".into() });
    leave(&mut call.draft, extra_name::GRANT, &grant);
    Continue(call)
}

/// Id and secret of `Basic` (RFC 7617), percent-decoded (RFC 6749, section 2.3.1).
fn basic(value: &str) -> Option<(String, String)> {
    let (scheme, encoded) = value.split_once(' ')?;
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(encoded.trim()).ok())??;
    let (id, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((decode(id)?, decode(secret)?))
}

/// The fields of `application/x-www-form-urlencoded`; none when one stands twice.
fn form(body: &[u8]) -> Option<Vec<(String, String)>> {
    let text = std::str::from_utf8(body).ok()?;
    let mut fields: Vec<(String, String)> = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name)?;
        if fields.iter().any(|(known, _)| *known == name) {
            return None;
        }
        fields.push((name, decode(value)?));
    }
    Some(fields)
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |b: Option<u8>| (b? as char).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                (high << 4 | low) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_as_the_standard_says() {
        let fields = form(b"grant_type=client_credentials&a=x%20y+z%2B&b").unwrap();
        assert_eq!(fields[1..], [("a".into(), "x y z+".into()), ("b".into(), String::new())]);
        for bad in [&b"a=1&a=2"[..], b"a=%4", b"a=%zz", b"\xff=1", b"a=%ff"] {
            assert_eq!(form(bad), None);
        }
        assert_eq!(basic("basic YTpiOmM="), Some(("a".into(), "b:c".into())));
        for bad in ["Basic", "Basic !", "Bearer YTpi", "Basic YWI="] {
            assert_eq!(basic(bad), None, "{bad}");
        }
    }
}
