//! The request's body, read no further than the policy wants.

use wit_bindgen::{StreamReader, StreamResult};

use crate::{
    answer,
    bindings::{littoral::edge::types::Denial, wasi::http::types::Request, wit_future},
};

/// The largest body that comes with the first call, bytes.
const SMALL: usize = 64 << 10;
/// The largest body at all, bytes.
const CAP: usize = 8 << 20;
const CHUNK: usize = 16 << 10;

/// A body while it arrives.
pub struct Incoming {
    stream: StreamReader<u8>,
    read: Vec<u8>,
    ended: bool,
}

impl Incoming {
    pub fn of(request: Request) -> Self {
        let (_, consumed) = wit_future::new(|| Ok(()));
        let (stream, _trailers) = Request::consume_body(request, consumed);
        Self { stream, read: Vec::new(), ended: false }
    }

    /// The body, if it is small enough to come with the first call.
    pub async fn small(&mut self) -> Option<Vec<u8>> {
        self.read_past(SMALL).await;
        (self.read.len() <= SMALL).then(|| std::mem::take(&mut self.read))
    }

    /// All of it, or 413.
    pub async fn whole(&mut self) -> Result<Vec<u8>, Denial> {
        self.read_past(CAP).await;
        match self.read.len() {
            0..=CAP => Ok(std::mem::take(&mut self.read)),
            _ => Err(answer::denial(413, "request_too_large", format!("the body is larger than {} MiB", CAP >> 20))),
        }
    }

    /// Reads until the body ends or is longer than `limit`.
    async fn read_past(&mut self, limit: usize) {
        while !self.ended && self.read.len() <= limit {
            let (result, bytes) = self.stream.read(Vec::with_capacity(CHUNK)).await;
            self.read.extend_from_slice(&bytes);
            self.ended = !matches!(result, StreamResult::Complete(_));
        }
    }
}
