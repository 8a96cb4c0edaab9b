//! What administrators do, from the command line or over the admin listener.

pub mod factors;
pub mod keys;
pub mod serve;
pub mod session;
