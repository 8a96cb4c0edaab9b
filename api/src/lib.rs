//! Renders node events in the dialect of an API. Pure: events go in, bytes come out; sockets are the caller's.
//!
//! A dialect is a module: [`chat`] is `POST /chat/completions` of DeepSeek and OpenAI. [`error`] and [`models`] are
//! what every dialect of that family shares.

pub mod chat;
pub mod error;
pub mod models;

/// A comment that resets a client's read timeout while nothing else is sent. A block of its own: clients drop a
/// `data:` line that shares its block with a comment.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";
/// The line that ends a stream that succeeded.
pub const DONE: &[u8] = b"data: [DONE]\n\n";
/// `content-type` of a stream.
pub const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
/// `content-type` of a document.
pub const JSON: &str = "application/json";
