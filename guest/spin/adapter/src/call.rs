//! A request as the call a policy decides on.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bindings::{
    littoral::edge::{
        policy::{Call, Head},
        types::Plan,
    },
    wasi::{
        http::types::{Method, Request},
        random::random::get_random_u64,
    },
};

/// Longest `x-request-id` that is taken from a client, bytes.
const MAX_REQUEST_ID: usize = 128;

/// Method, path and headers.
pub fn head(request: &Request) -> Head {
    let target = request.get_path_with_query().unwrap_or_default();
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path.to_string(), Some(query.to_string())),
        None => (target, None),
    };
    let mut headers = request.get_headers().copy_all();
    for (name, _) in &mut headers {
        name.make_ascii_lowercase();
    }
    Head { method: method(request.get_method()), path, query, headers }
}

/// The client's id if it can stand in a header and a log as it is, else a new one.
pub fn request_id(headers: &[(String, Vec<u8>)]) -> String {
    let given = headers.iter().find(|(name, _)| name == "x-request-id").map(|(_, value)| value.as_slice());
    let sane = |id: &&[u8]| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    match given.filter(sane).and_then(|id| std::str::from_utf8(id).ok()) {
        Some(id) => id.into(),
        None => format!("{:016x}{:016x}", get_random_u64(), get_random_u64()),
    }
}

/// The call of the first round. wasi:http does not tell where a connection came from: `peer` is empty.
pub fn first(head: Head, body: Option<Vec<u8>>) -> Call {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Call { head, peer: String::new(), now_ms: now.as_millis() as u64, body, facts: Vec::new(), draft: blank() }
}

/// A plan with nothing decided.
fn blank() -> Plan {
    Plan {
        principal: None,
        operation: String::new(),
        rendering: None,
        request: Vec::new(),
        session: String::new(),
        deadline_ms: 0,
        seed: None,
        charges: Vec::new(),
        cache: None,
        candidates: Vec::new(),
        filters: Vec::new(),
        effects: Vec::new(),
        memo: None,
        compression: Vec::new(),
        audit: Vec::new(),
        extra: Vec::new(),
    }
}

fn method(method: Method) -> String {
    let known = match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => return name,
    };
    known.to_string()
}
