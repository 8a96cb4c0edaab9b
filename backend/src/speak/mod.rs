//! What a model says in its own format, taken apart while it streams: reasoning, tool calls and the answer proper.
//!
//! A format is one file in `formats/`: how a chat template is recognised, how reasoning is fenced, how calls are
//! written, and recorded cases that the tests run, cut at every byte.

mod call;
mod format;
mod parser;
mod scan;
#[cfg(test)]
mod tests;

pub use format::{Calls, Format};
pub use parser::Parser;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Reasoning(String),
    /// The beginning of a call: position among the answer's calls, name of the function.
    Call {
        index: u32,
        name: String,
    },
    /// More of a call's arguments, JSON.
    Arguments {
        index: u32,
        json: String,
    },
}
