//! A request as it came through the door, whatever protocol it spoke.

use std::time::{Instant, SystemTime};

use http::Request;
use littoral_core::Head;

use super::Upload;

/// One request.
pub struct Arrival {
    /// The client's `x-request-id`, or one made here.
    pub id: String,
    pub head: Request<()>,
    /// The client's address, without a port: the connection's peer, or what trusted proxies say of it.
    pub peer: String,
    pub body: Upload,
    /// When the head was complete.
    pub received: Instant,
}

/// A head as guests see it.
pub fn head(request: &Request<()>) -> Head {
    Head {
        method: request.method().as_str().into(),
        path: request.uri().path().into(),
        query: request.uri().query().map(Into::into),
        headers: request.headers().iter().map(|(n, v)| (n.as_str().into(), v.as_bytes().into())).collect(),
    }
}

/// Unix time, milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
