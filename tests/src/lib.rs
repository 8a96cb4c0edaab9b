//! Equipment for tests on real parts: processes, clients, a node whose every move the test decides.

pub mod answers;
pub mod artefact;
pub mod certificates;
pub mod client;
pub mod edge;
pub mod instant_node;
pub mod issuer;
pub mod kept;
pub mod load;
pub mod metrics;
pub mod node;
pub mod openai_server;
pub mod port;
pub mod process;
pub mod redis_cluster;
pub mod redis_server;
pub mod sse;
pub mod syslog_receiver;
pub mod wasi_host;

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// Asks `done` every 10 ms until it says so; fails the test after `limit`.
pub async fn eventually<F: Future<Output = bool>>(what: &str, limit: Duration, mut done: impl FnMut() -> F) {
    let began = Instant::now();
    while !done().await {
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
