//! A foreign policy layer: whoever sends `x-curfew` is turned away, everyone else meets the next layer.
//!
//! It shows how a policy of one's own stands between the others without their knowing.

use std::ops::ControlFlow::{Break, Continue};

use littoral_core::{Call, Denial, Knowledge, Step};

littoral_abi::layer!(curfew);

fn curfew(mut call: Call, _known: &dyn Knowledge) -> Step {
    if call.head.header("x-curfew").is_some() {
        let message = "this door is closed at this hour".to_string();
        return Break(Denial { status: 403, code: "curfew".into(), message, ..Denial::default() }.into());
    }
    call.draft.audit.push(("curfew".into(), "passed".into()));
    Continue(call)
}
