//! The hot path with layers left out, so that a benchmark can tell what each of them costs. Never for serving people.

use std::ops::ControlFlow::{Break, Continue};

use littoral_core::{Call, Knowledge, Outcome, Principal, Step, auth, cache, route};

littoral_abi::terminal!(decide);

fn decide(call: Call, known: &dyn Knowledge) -> Outcome {
    let layers = |call| plan(admit(call, known)?, known);
    match layers(call) {
        Break(outcome) => outcome,
        Continue(call) => route::open(call, known),
    }
}

/// Without the layer everybody is the same principal, because keys of caches and nodes are scoped by its tenant.
fn admit(mut call: Call, known: &dyn Knowledge) -> Step {
    if cfg!(feature = "auth") {
        return auth::admit(call, known);
    }
    let text = String::from;
    let (tenant, user, method) = (text("bench"), text("load"), text("none"));
    call.draft.principal = Some(Principal { tenant, key_id: String::new(), user, method });
    Continue(call)
}

fn plan(call: Call, known: &dyn Knowledge) -> Step {
    if cfg!(feature = "cache") { cache::plan(call, known) } else { Continue(call) }
}
