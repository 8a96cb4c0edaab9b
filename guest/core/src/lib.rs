//! The decisions of the guests as pure functions: a [`Call`] goes in, an [`Outcome`] comes out.
//!
//! No I/O, no clock, no runtime and no WIT: what a decision needs from outside comes as facts in the call or through
//! [`Knowledge`], whose answers come from memory. The layers are [`auth`], [`cache`] and [`route`], in this order;
//! [`decide`] is the three in one.

pub mod address;
pub mod audit;
pub mod auth;
pub mod cache;
pub mod calendar;
pub mod chat;
pub mod denial;
pub mod document;
pub mod fleet;
pub mod key;
pub mod ledger;
pub mod limits;
pub mod oauth;
pub mod rendezvous;
pub mod retrieval;
pub mod route;
pub mod step_up;
pub mod token;
pub mod types;

use std::ops::ControlFlow;

use route::Endpoint;

pub use types::*;

/// What the host answers synchronously, from memory. The same four questions in every host.
pub trait Knowledge {
    /// None when the fact is not in memory: the decision then asks for it with [`Outcome::Need`].
    fn peek(&self, kind: &str, key: &str) -> Option<Fact>;
    /// The model of this name, if any node of the fleet serves it.
    fn model(&self, name: &str) -> Option<Model>;
    /// At most `k` nodes that serve `model`, best first; none for a model that nobody serves.
    fn candidates(&self, model: &str, tenant: &str, session: &str, k: u32) -> Vec<Candidate>;
    /// Whether `signature` over `message` was made by the holder of `key`.
    fn verify(&self, algorithm: &str, key: &[u8], message: &[u8], signature: &[u8]) -> bool;
}

/// What a layer says: the outcome, or the call with its draft filled further, for the next layer.
pub type Step = ControlFlow<Outcome, Call>;

/// Authentication, cache plan and route in one call.
///
/// A host offers with the first draft to remember the decision; this policy takes the offer up, for what it looks at
/// beside the credential, the path and the body.
pub fn decide(call: Call, known: &dyn Knowledge) -> Outcome {
    let call = match auth::admit(call, known) {
        ControlFlow::Break(outcome) => return outcome,
        ControlFlow::Continue(call) => call,
    };
    let principal = call.draft.principal.clone().unwrap_or_default();
    let outcome = match cache::plan(call, known) {
        ControlFlow::Break(outcome) => outcome,
        ControlFlow::Continue(mut call) => {
            remember(&mut call);
            route::open(call, known)
        }
    };
    denial::of(&principal, outcome)
}

/// What an earlier layer left under this name in the plan's `extra`.
pub fn extra<T: serde::de::DeserializeOwned>(plan: &Plan, name: &str) -> Option<T> {
    let (_, json) = plan.extra.iter().find(|(known, _)| known == name)?;
    serde_json::from_str(json).ok()
}

/// Leaves something for later layers, or for the host.
fn leave(plan: &mut Plan, name: &str, value: &impl serde::Serialize) {
    let json = serde_json::to_string(value).expect("what layers leave always serialises");
    plan.extra.push((name.into(), json));
}

/// Takes up the host's offer to remember the decision, for the endpoints whose requests come again.
fn remember(call: &mut Call) {
    match (Endpoint::of(&call.head.path), &mut call.draft.memo) {
        (Some(Endpoint::Chat | Endpoint::Models | Endpoint::Retrieval), Some(memo)) => {
            memo.vary = LOOKED_AT.map(String::from).into();
        }
        // What is a secret's proof, or is given once, is decided every time.
        (_, memo) => *memo = None,
    }
}

/// Headers that change a decision, beside `authorization`.
const LOOKED_AT: [&str; 3] = ["cache-control", "x-littoral-cache", "x-littoral-cache-tags"];

/// A fact from the call or from memory; `Break(need)` when it is in neither.
fn fact(call: &Call, known: &dyn Knowledge, kind: &str, key: &str) -> ControlFlow<Outcome, Fact> {
    let given = call.facts.iter().find(|f| f.kind == kind && f.key == key).cloned();
    match given.or_else(|| known.peek(kind, key)) {
        Some(fact) => ControlFlow::Continue(fact),
        None => ControlFlow::Break(Outcome::Need(vec![Want::Fact(kind.into(), key.into())])),
    }
}
