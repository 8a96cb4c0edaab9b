//! What the edge tells of itself: counters for Prometheus, and one log line per request.

mod access;
mod entry;
mod log;
mod metrics;
mod serve;

pub use access::AccessMetrics;
pub use entry::{CacheOutcome, Entry, Meter, Route, Tally, Used};
pub use log::{LOG_VARIABLE, Log};
pub use metrics::Metrics;
pub use serve::serve;
