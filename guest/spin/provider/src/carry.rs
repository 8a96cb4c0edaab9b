//! Carries a generation to a node: candidate after candidate until one begins to answer, then the answer as it comes.

use crate::{
    bindings::{
        exports::littoral::{
            edge::types::{Denial, Pairs, Plan},
            portable::carriage::ReplyHead,
        },
        wasi::http::{
            client,
            types::{ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme},
        },
        wit_future, wit_stream,
    },
    limits::denial,
    settings::{Node, Settings},
};

const PATH: &str = "/v1/chat/completions";
/// How a node asks for its own name in front of the answer.
const NODE: &str = "x-littoral-node";
/// Headers of the node's answer that the client gets.
const PASSED: [&str; 2] = ["content-type", "retry-after"];
const NANOS_PER_MS: u64 = 1_000_000;

/// Returns once a node has begun to answer; what follows streams from the node to the client without guest code.
///
/// A node that cannot be reached, refuses this host or fails before its response head is passed over. Only nodes of
/// the settings are asked: the secret goes nowhere else.
pub async fn generate(plan: Plan, head: ReplyHead, settings: &Settings) -> Result<Response, Denial> {
    for candidate in &plan.candidates {
        let Some(node) = settings.node(&candidate.node) else {
            eprintln!("littoral: the plan names '{}', which is no node of the settings", candidate.node);
            continue;
        };
        let response = match ask(node, &plan, &head.headers, &settings.secret).await {
            Ok(response) => response,
            Err(error) => {
                eprintln!("littoral: {} cannot be reached: {error:?}", node.name);
                continue;
            }
        };
        match response.get_status_code() {
            // The side-door is shut or elsewhere, which is no fault of the client's.
            status @ (401 | 403 | 404 | 405 | 500..) => eprintln!("littoral: {} answered {status}", node.name),
            status => return Ok(pass(response, status, node, head)),
        }
    }
    let mut refused = denial(503, "service_unavailable", "no node could take the request; try again shortly");
    refused.headers.push(("retry-after".into(), "1".into()));
    Err(refused)
}

/// Sends the canonical request. The answer is complete when its head is.
async fn ask(node: &Node, plan: &Plan, headers: &Pairs, secret: &str) -> Result<Response, ErrorCode> {
    let fields = Fields::new();
    let _ = fields.append("content-type", b"application/json");
    let _ = fields.append("authorization", format!("Bearer {secret}").as_bytes());
    for (name, value) in headers.iter().filter(|(name, _)| name == "x-request-id") {
        let _ = fields.append(name, value.as_bytes());
    }
    let (mut body, contents) = wit_stream::new();
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(fields, Some(contents), trailers, patience(plan.deadline_ms));
    let wrong = |()| ErrorCode::HttpRequestUriInvalid;
    request.set_method(&Method::Post).map_err(wrong)?;
    request.set_scheme(Some(if node.tls { &Scheme::Https } else { &Scheme::Http })).map_err(wrong)?;
    request.set_authority(Some(&node.authority)).map_err(wrong)?;
    request.set_path_with_query(Some(&format!("{}{PATH}", node.base))).map_err(wrong)?;
    let bytes = plan.request.clone();
    wit_bindgen::spawn(async move {
        body.write_all(bytes).await;
    });
    client::send(request).await
}

/// A deadline bounds the wait for the first byte and between two bytes; 0 leaves both to the host.
fn patience(deadline_ms: u64) -> Option<RequestOptions> {
    let limit = Some(deadline_ms).filter(|ms| *ms > 0)?.saturating_mul(NANOS_PER_MS);
    let options = RequestOptions::new();
    // A host without such timeouts keeps its own.
    let _ = options.set_first_byte_timeout(Some(limit));
    let _ = options.set_between_bytes_timeout(Some(limit));
    Some(options)
}

/// The node's answer as ours: its body unread, its status if it is a refusal, and our headers.
fn pass(response: Response, status: u16, node: &Node, head: ReplyHead) -> Response {
    let fields = Fields::new();
    for (name, value) in head.headers.iter().filter(|(name, _)| !PASSED.contains(&name.as_str())) {
        let _ = fields.append(name, value.as_bytes());
    }
    let received = response.get_headers();
    for name in PASSED {
        for value in received.get(name) {
            let _ = fields.append(name, &value);
        }
    }
    let named = received.get(NODE).into_iter().next();
    let _ = fields.append(NODE, &named.unwrap_or_else(|| node.shown().as_bytes().to_vec()));
    let _ = fields.append("x-littoral-cache", b"bypass; reason=host");
    drop(received);
    let (_, consumed) = wit_future::new(|| Ok(()));
    let (contents, trailers) = Response::consume_body(response, consumed);
    let (answer, _sent) = Response::new(fields, Some(contents), trailers);
    let _ = answer.set_status_code(if status < 300 { head.status } else { status });
    answer
}
