//! What the edge tells of itself: counters for Prometheus, and one log line per request.

mod entry;
mod log;
mod metrics;
mod serve;

pub use entry::{CacheOutcome, Entry, Route, Tally};
pub use log::{LOG_VARIABLE, Log};
pub use metrics::Metrics;
pub use serve::serve;
