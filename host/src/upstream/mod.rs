//! Nodes that speak OpenAI's HTTP API instead of ours: vLLM, SGLang, llama.cpp, DeepSeek's own servers.
//!
//! [`request`] writes what they are asked, [`sse`] takes their streams apart, [`translate`] makes node events of the
//! pieces, and [`call`] is one call over one kept connection. [`rest`] reads when a full one may be asked again.

pub mod call;
mod client;
mod handshake;
mod request;
pub mod rest;
mod sse;
mod translate;

pub use call::HttpWire;
pub use client::{Http, document, models};
pub use request::{Continue, Said};
