//! The metrics port: `/metrics` for Prometheus, `/healthz` for whoever starts and stops nodes.

use std::{sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{node::Node, web};
use crate::engine::{self, Metrics};

/// How often what was observed is folded into buckets, so that an unread endpoint does not grow.
const UPKEEP: Duration = Duration::from_secs(5);
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of one node, and what renders them. Nothing is process-wide: two nodes in one process do not mix.
pub fn recorder() -> Result<(Metrics, PrometheusHandle), BuildError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&engine::SECONDS)?
        .set_buckets_for_metric(Matcher::Full(engine::BATCH.into()), &engine::SEQUENCES)?
        .build_recorder();
    Ok((Metrics::new(&recorder), recorder.handle()))
}

/// Serves the port until `shutdown`.
pub async fn serve(listener: TcpListener, handle: PrometheusHandle, node: Arc<Node>, shutdown: CancellationToken) {
    let upkeep = async {
        let mut pulse = tokio::time::interval(UPKEEP);
        loop {
            pulse.tick().await;
            handle.run_upkeep();
        }
    };
    let answers = handle.clone();
    let answer = move |request: Request<Incoming>| {
        let response = answer(&request, &answers, &node);
        async move { response }
    };
    tokio::select! {
        () = web::serve(listener, answer, shutdown) => {}
        () = upkeep => {}
    }
}

fn answer(request: &Request<Incoming>, handle: &PrometheusHandle, node: &Node) -> Response<web::Body> {
    match request.uri().path() {
        "/metrics" => web::full(StatusCode::OK, TEXT, handle.render()),
        "/healthz" if node.engine.load().draining => web::full(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n"),
        "/healthz" => web::full(StatusCode::OK, TEXT, "ok\n"),
        _ => web::full(StatusCode::NOT_FOUND, TEXT, "this port answers /metrics and /healthz\n"),
    }
}
