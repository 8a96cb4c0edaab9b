//! `/healthz`: whether a request could be answered now. Not decided by guests.

use std::time::Instant;

use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use serde::Serialize;

use crate::{
    fleet::NodeStatus,
    plan::{Body, Shared},
    telemetry::{CacheOutcome, Route},
};

#[derive(Serialize)]
struct Health {
    ready: bool,
    draining: bool,
    /// The audit log cannot be written to, and `audit.on_full` has requests refused for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    audit_full: bool,
    nodes: Vec<NodeStatus>,
}

/// 200 when ready, else 503; the same document with both.
pub fn answer(shared: &Shared, draining: bool, received: Instant) -> Response<Body> {
    let view = shared.fleet.view();
    let audit_full = shared.audit.as_ref().is_some_and(|audit| audit.is_closed());
    let ready = view.is_ready() && !draining && !audit_full;
    let health = Health { ready, draining, audit_full, nodes: view.statuses() };
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let document = serde_json::to_vec(&health).expect("strings, numbers and booleans always serialise");
    let mut response = Response::new(Body::whole(document.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(littoral_api::JSON));
    shared.metrics.request(Route::Health, status.as_u16(), CacheOutcome::None, received.elapsed());
    response
}
