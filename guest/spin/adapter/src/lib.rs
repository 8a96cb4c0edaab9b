//! Stands before the policy in hosts that speak wasi:http only: a request becomes a call, the outcome an answer.
//!
//! The policy decides synchronously; what it lacks is learned between the rounds, and a generation is handed to the
//! provider, whose answer streams on without guest code.

mod answer;
mod body;
mod call;

mod bindings {
    wit_bindgen::generate!({
        path: ["../../../wit", "../wit"],
        world: "littoral:portable/adapter",
        generate_all,
    });
}

use bindings::{
    exports::wasi::http::handler::Guest,
    littoral::{
        edge::{
            policy::{self, Body, Head, Outcome, Reply},
            types::{Denial, Pairs, Want},
        },
        portable::carriage::{self, ReplyHead},
    },
    wasi::http::types::{ErrorCode, Request, Response},
};

use crate::body::Incoming;

/// How often a policy may ask for more before it has to decide.
const ROUNDS: u32 = 3;

struct Adapter;

bindings::export!(Adapter with_types_in bindings);

impl Guest for Adapter {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let head = call::head(&request);
        let id = ("x-request-id".to_string(), call::request_id(&head.headers));
        let answer = answer(head, request, id.clone()).await;
        Ok(answer.unwrap_or_else(|denial| answer::refusal(denial, id)))
    }
}

/// The answer to one request; `id` is the header that names it.
async fn answer(head: Head, request: Request, id: (String, String)) -> Result<Response, Denial> {
    if head.method == "GET" && head.path == "/healthz" {
        return Ok(answer::document(200, vec![id], br#"{"status":"ok"}"#.to_vec()));
    }
    carriage::prepare().await?;
    let Reply { status, mut headers, body, plan } = decide(head, Incoming::of(request)).await?;
    headers.push(id);
    match body {
        Body::Bytes(bytes) => Ok(answer::document(status, headers, bytes)),
        Body::Generation(generation) => carriage::respond(generation, ReplyHead { status, headers }).await,
        Body::Service((name, arguments)) => {
            let document = carriage::serve(name, arguments, plan).await?;
            Ok(answer::document(status, headers, document))
        }
    }
}

/// Asks the policy until it decides, and learns between the rounds what it wants to know.
async fn decide(head: Head, mut incoming: Incoming) -> Result<Reply, Denial> {
    let mut call = call::first(head, incoming.small().await);
    for _ in 0..=ROUNDS {
        let wants = match policy::decide(&call) {
            Outcome::Reply(reply) => return Ok(reply),
            Outcome::Denial(denial) => return Err(denial),
            Outcome::Need(wants) => wants,
        };
        if call.body.is_none() && wants.iter().any(|want| matches!(want, Want::Body)) {
            call.body = Some(incoming.whole().await?);
        }
        if wants.iter().any(|want| matches!(want, Want::Fact(_))) {
            call.facts.extend(carriage::fetch(wants).await);
        }
    }
    Err(answer::denial(500, "internal_error", format!("the policy still asks for more after {ROUNDS} rounds")))
}

/// No headers.
fn none() -> Pairs {
    Pairs::new()
}
