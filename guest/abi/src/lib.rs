//! Makes a guest component of a decision in `littoral-core`: bindings, conversions and the exported function.
//!
//! A component picks its world by a feature: `terminal` (it opens) or `layer` (it wraps the next layer's policy), and
//! exports its decision with [`terminal!`] or [`layer!`].

pub mod arena;
#[cfg(any(feature = "terminal", feature = "layer"))]
pub mod bindings;
#[cfg(any(feature = "terminal", feature = "layer"))]
mod convert;
#[cfg(any(feature = "terminal", feature = "layer"))]
mod host;

#[cfg(any(feature = "terminal", feature = "layer"))]
pub use host::Host;

/// Decides with a last layer: `fn(Call, &dyn Knowledge) -> Outcome`.
#[cfg(feature = "terminal")]
pub fn decide_terminal(
    decide: fn(littoral_core::Call, &dyn littoral_core::Knowledge) -> littoral_core::Outcome,
    call: bindings::exports::littoral::edge::policy::Call,
) -> bindings::exports::littoral::edge::policy::Outcome {
    decide(call.into(), &Host).into()
}

/// Decides with a layer, and asks the next one when it lets the call pass.
#[cfg(feature = "layer")]
pub fn decide_layer(
    step: fn(littoral_core::Call, &dyn littoral_core::Knowledge) -> littoral_core::Step,
    call: bindings::exports::littoral::edge::policy::Call,
) -> bindings::exports::littoral::edge::policy::Outcome {
    let mut call: littoral_core::Call = call.into();
    // A layer has its say every time: what is remembered of the layers behind it would pass it by.
    call.draft.memo = None;
    match step(call, &Host) {
        std::ops::ControlFlow::Break(outcome) => outcome.into(),
        std::ops::ControlFlow::Continue(call) => bindings::littoral::edge::policy::decide(&call.into()).into(),
    }
}

/// Exports a last layer as the component's `policy`.
#[cfg(feature = "terminal")]
#[macro_export]
macro_rules! terminal {
    ($decide:path) => {
        $crate::component!($crate::decide_terminal, $decide);
    };
}

/// Exports a layer as the component's `policy`.
#[cfg(feature = "layer")]
#[macro_export]
macro_rules! layer {
    ($step:path) => {
        $crate::component!($crate::decide_layer, $step);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! component {
    ($run:path, $decision:path) => {
        struct Component;
        impl $crate::bindings::exports::littoral::edge::policy::Guest for Component {
            fn decide(
                call: $crate::bindings::exports::littoral::edge::policy::Call,
            ) -> $crate::bindings::exports::littoral::edge::policy::Outcome {
                $run($decision, call)
            }
        }
        $crate::bindings::export!(Component with_types_in $crate::bindings);
    };
}
