//! From hyper's request to an [`Arrival`].

use std::{net::IpAddr, time::Instant};

use http::{HeaderMap, Request, Response, Version, header::EXPECT};
use hyper::body::Incoming;
use littoral_core::key::hex;

use super::{Door, health, page};
use crate::{
    plan::{Arrival, Body, Upload},
    telemetry::{CacheOutcome, Route},
};

/// Longest `x-request-id` that is taken from a client, bytes.
const MAX_REQUEST_ID: usize = 128;

impl Door {
    pub(super) async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Response<Body> {
        let received = Instant::now();
        if request.uri().path() == "/healthz" {
            return health::answer(self.executor.shared(), self.stop.is_cancelled(), received);
        }
        if let Some(page) = page::answer(request.method(), request.uri().path(), request.headers()) {
            let metrics = &self.executor.shared().metrics;
            metrics.request(Route::Page, page.status().as_u16(), CacheOutcome::None, received.elapsed());
            return page.map(Body::whole);
        }
        let (parts, body) = request.into_parts();
        let discardable = parts.version < Version::HTTP_2 && !parts.headers.contains_key(EXPECT);
        let client = self.origin.client(peer, &parts.headers);
        let arrival = Arrival {
            id: request_id(&parts.headers),
            head: Request::from_parts(parts, ()),
            peer: client.to_string(),
            body: Upload::new(body, self.bounds, discardable),
            received,
        };
        self.executor.answer(arrival).await
    }
}

/// The client's id if it can stand in a header and a log as it is, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").map(|value| value.as_bytes());
    let sane = |id: &&[u8]| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    match given.filter(sane).and_then(|id| std::str::from_utf8(id).ok()) {
        Some(id) => id.into(),
        None => hex(&rand::random::<[u8; 16]>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_request_id_is_kept_and_another_replaced() {
        let with = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", http::HeaderValue::from_bytes(value).unwrap());
            request_id(&headers)
        };
        assert_eq!(with(b"req-1:{a}"), "req-1:{a}");
        for bad in [&b"two words"[..], b"", "ümlaut".as_bytes(), &[b'x'; 129]] {
            assert_eq!(with(bad).len(), 32);
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
