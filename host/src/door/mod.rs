//! Sockets and protocols: HTTP/1.1 and HTTP/2 in the clear become [`crate::plan::Arrival`]s.
//!
//! Every worker thread has a listener of its own on the same port (SO_REUSEPORT) and keeps what it accepts.

mod connection;
mod health;
mod listen;
mod origin;
mod page;
mod proxy;
mod request;

use std::{rc::Rc, time::Duration};

use hyper_util::{
    rt::TokioTimer,
    server::conn::auto::{self, Builder},
};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    plan::{Bounds, Executor},
};
pub use listen::{admin_listener, bind, metrics_listener};
use origin::Origin;

/// Largest head of a request, bytes.
const MAX_HEAD: usize = 64 << 10;
/// Answers under way on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1024;

/// One worker's door.
pub struct Door {
    builder: auto::Builder<connection::Local>,
    executor: Rc<Executor>,
    bounds: Bounds,
    origin: Origin,
    header_timeout: Duration,
    drain_timeout: Duration,
    max_connections: usize,
    /// Cancelled when the edge is to stop.
    stop: CancellationToken,
}

impl Door {
    pub fn new(executor: Executor, config: &config::Edge, stop: CancellationToken) -> Self {
        let header_timeout = Duration::from_millis(config.header_timeout_ms);
        let mut builder = Builder::new(connection::Local);
        builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(MAX_HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD as u32)
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let time = Duration::from_millis(config.body_timeout_ms);
        Self {
            builder,
            executor: Rc::new(executor),
            bounds: Bounds { size: config.max_body_bytes, time },
            origin: Origin::new(config),
            header_timeout,
            drain_timeout: config.drain_timeout(),
            max_connections: config.max_connections.div_ceil(config.worker_count()),
            stop,
        }
    }

    /// Accepts until told to stop, then lets open answers end, for a while. Must run inside a local task set.
    pub async fn serve(self, listener: TcpListener) {
        let door = Rc::new(self);
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = door.stop.cancelled() => break,
                Some(ended) = open.join_next(), if !open.is_empty() => report(ended),
                accepted = listener.accept(), if open.len() < door.max_connections => match accepted {
                    Ok((stream, peer)) => {
                        open.spawn_local(door.clone().connection(stream, peer.ip()));
                    }
                    Err(error) => {
                        // Out of file descriptors, as a rule: closing connections give some back.
                        tracing::warn!(%error, "the listener cannot accept");
                        sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
        drop(listener);
        let drained = timeout(door.drain_timeout, async {
            while let Some(ended) = open.join_next().await {
                report(ended);
            }
        });
        if drained.await.is_err() {
            tracing::warn!(connections = open.len(), "open answers were cut off: the drain timeout is over");
            open.shutdown().await;
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection ended in a panic");
    }
}
