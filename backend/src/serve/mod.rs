//! The node's doors: gRPC for edges, metrics, and the side-door for hosts that cannot speak gRPC.

mod grpc;
mod health;
mod metrics;
mod node;
mod side_door;
mod texts;
mod web;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use metrics::recorder;
pub use node::Node;
pub use side_door::Secret;
pub use texts::Refused;

use crate::{
    model::{BLOCK_TOKENS, ModelInfo, Servable},
    schedule::{Limits, Replay},
};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "cannot listen on {address} for {what}: {source}; is another process there? `{option}` takes another address"
    )]
    Listen { address: String, what: &'static str, option: &'static str, source: std::io::Error },
    #[error("the engine's thread cannot be started: {0}")]
    Thread(std::io::Error),
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// The ports, bound before the model is loaded: a port that is taken is said at once.
pub struct Doors {
    grpc: TcpListener,
    metrics: TcpListener,
    side: Option<(TcpListener, Secret)>,
}

/// Where a node listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub grpc: SocketAddr,
    pub metrics: SocketAddr,
    pub http: Option<SocketAddr>,
}

impl Doors {
    /// Binds `host:port` addresses; port 0 takes any that is free.
    pub async fn bind(grpc: &str, metrics: &str, http: Option<(&str, Secret)>) -> Result<Self, StartError> {
        let side = match http {
            None => None,
            Some((address, secret)) => Some((bind(address, "HTTP", "--http").await?, secret)),
        };
        let grpc = bind(grpc, "gRPC", "--listen").await?;
        Ok(Self { grpc, metrics: bind(metrics, "metrics", "--metrics").await?, side })
    }

    /// The addresses, with the ports that were found.
    pub fn addresses(&self) -> std::io::Result<Addresses> {
        let http = self.side.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?;
        Ok(Addresses { grpc: self.grpc.local_addr()?, metrics: self.metrics.local_addr()?, http })
    }
}

async fn bind(address: &str, what: &'static str, option: &'static str) -> Result<TcpListener, StartError> {
    let taken = |source| StartError::Listen { address: address.into(), what, option, source };
    TcpListener::bind(address).await.map_err(taken)
}

/// How a node calls itself and how much it takes on.
#[derive(Debug, Clone)]
pub struct Settings {
    pub node: String,
    /// The model's name for clients.
    pub model: String,
    pub slots: usize,
    /// Requests that wait at most.
    pub queue: usize,
    /// Tokens a step runs at most.
    pub rows: usize,
    /// Blocks the model was loaded with.
    pub kv_blocks: usize,
    /// Whether tokens are drafted where the text repeats itself.
    pub speculate: bool,
}

impl Settings {
    /// The engine's limits for a model.
    pub fn limits(&self, info: &ModelInfo) -> Limits {
        let &Self { slots, queue, rows, kv_blocks: blocks, .. } = self;
        let replay = if info.batch_invariant { Replay::Prefill } else { Replay::Decode };
        Limits { slots, queue, rows, blocks, block_tokens: BLOCK_TOKENS, context: info.context_length, replay }
    }
}

/// A node that serves.
pub struct Server {
    node: Arc<Node>,
    shutdown: CancellationToken,
    doors: JoinHandle<()>,
}

impl Server {
    /// Starts the engine and opens the doors. Runs in the current tokio runtime.
    pub fn start(doors: Doors, loaded: impl Into<Servable>, settings: Settings) -> Result<Self, StartError> {
        let (recorded, handle) = recorder()?;
        let node = Node::start(loaded.into(), settings, recorded).map_err(StartError::Thread)?;
        let shutdown = CancellationToken::new();
        let doors = tokio::spawn(open(doors, node.clone(), handle, shutdown.clone()));
        Ok(Self { node, shutdown, doors })
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Serves until `signal`, or until the engine ends by itself; then admits nothing more, lets what runs end for at
    /// most `patience`, and closes the doors. False when the engine ended by itself.
    pub async fn run(self, signal: impl Future<Output = ()>, patience: Duration) -> bool {
        let asked = tokio::select! {
            () = signal => true,
            () = self.node.engine.ended() => false,
        };
        let done = self.node.engine.drain(patience).await;
        tracing::info!(cut_off = !done, "drained");
        self.shutdown.cancel();
        // What is left are last bytes on their way; a peer that does not take them is not waited for.
        if tokio::time::timeout(Duration::from_secs(2), self.doors).await.is_err() {
            tracing::warn!("closed connections whose peers did not read");
        }
        asked
    }
}

async fn open(
    doors: Doors,
    node: Arc<Node>,
    handle: metrics_exporter_prometheus::PrometheusHandle,
    shutdown: CancellationToken,
) {
    let grpc = async {
        if let Err(error) = grpc::serve(doors.grpc, node.clone(), shutdown.clone()).await {
            tracing::error!(%error, "the gRPC service ended");
        }
    };
    let side = async {
        if let Some((listener, secret)) = doors.side {
            let node = node.clone();
            let answer = move |request| side_door::answer(node.clone(), secret.clone(), request);
            web::serve(listener, answer, shutdown.clone()).await;
        }
    };
    let metrics = metrics::serve(doors.metrics, handle, node.clone(), shutdown.clone());
    tokio::join!(grpc, side, metrics);
}
