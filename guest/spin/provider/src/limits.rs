//! What this provider cannot carry out. A plan that requires it is answered 501 before anything is done;
//! `docs/spin.md` has the same table.

use littoral_core::{dialect, operation};

use crate::bindings::exports::littoral::edge::types::{Denial, Plan};

/// Refuses a plan that requires more than this provider does. What only makes an answer faster or smaller (cache,
/// memo, compression) may be left undone.
pub fn admit(plan: &Plan, operation: &str) -> Result<(), Denial> {
    let dialect = plan.rendering.as_ref().map_or(dialect::CHAT, |rendering| &rendering.dialect);
    let beyond = [
        ("operation", plan.operation != operation),
        ("dialect", dialect != dialect::CHAT),
        ("charges", !plan.charges.is_empty()),
        ("filters", !plan.filters.is_empty()),
        ("effects", !plan.effects.is_empty()),
    ];
    match beyond.iter().find(|(_, required)| *required) {
        None => Ok(()),
        Some((part, _)) => Err(not_carried(part)),
    }
}

/// Refuses a host service that is not carried out.
pub fn service(name: &str) -> Result<(), Denial> {
    match name {
        operation::MODELS => Ok(()),
        _ => Err(not_carried(&format!("service '{name}'"))),
    }
}

fn not_carried(part: &str) -> Denial {
    denial(501, "not_implemented", format!("this host does not carry out the {part} that the policy plans"))
}

/// A refusal by this provider.
pub fn denial(status: u16, code: &str, message: impl Into<String>) -> Denial {
    Denial {
        status,
        code: code.into(),
        message: message.into(),
        headers: Vec::new(),
        audit: Vec::new(),
        extra: Vec::new(),
    }
}
