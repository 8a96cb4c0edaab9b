//! A client of the API for the terminal: `littoral ask` and `littoral chat`.
//!
//! It speaks to any edge, and to any server of the same API. It runs on plain blocking I/O: one answer, one thread.

mod answer;
mod connection;
mod terminal;

pub use answer::{Answer, Piece};
pub use connection::{Connection, Request, Turn};
pub use terminal::{Interrupt, Terminal};
