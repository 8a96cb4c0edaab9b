//! A request as it came through the door, whatever protocol it spoke.

use std::time::{Instant, SystemTime};

use littoral_core::Head;

use super::Upload;

/// One request.
pub struct Arrival {
    /// The client's `x-request-id`, or one made here.
    pub id: String,
    pub head: Head,
    /// The client's address, without a port: the connection's peer, or what trusted proxies say of it.
    pub peer: String,
    pub body: Upload,
    /// When the head was complete.
    pub received: Instant,
}

/// Unix time, milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
