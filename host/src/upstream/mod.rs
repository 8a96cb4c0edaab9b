//! Nodes that speak OpenAI's HTTP API instead of ours: vLLM, SGLang, llama.cpp, DeepSeek's own servers.
//!
//! [`request`] writes what they are asked, [`sse`] takes their streams apart, [`translate`] makes node events of the
//! pieces, and [`call`] is one call over one kept connection.

pub mod call;
mod client;
mod request;
mod sse;
mod translate;

pub use call::HttpWire;
pub use client::{Http, document, models};
pub use request::Continue;
