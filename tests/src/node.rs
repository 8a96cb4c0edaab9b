//! A real node, `littoral-node serve`, with the real model.

use std::{net::SocketAddr, process::Command, sync::OnceLock};

use littoral_proto::v1::{DescribeRequest, NodeInfo, node_client::NodeClient};
use serde_json::{Value, json};

use crate::{artefact, metrics::Metrics, process::Process};

/// The name under which the default model is served.
pub const MODEL: &str = "smollm2-135m-instruct";

/// A running node.
pub struct Node {
    pub process: Process,
    pub grpc: SocketAddr,
    metrics: SocketAddr,
}

impl Node {
    /// The node that all tests of one process share: it takes a while to load.
    pub fn shared() -> &'static Self {
        static NODE: OnceLock<Node> = OnceLock::new();
        NODE.get_or_init(|| Self::start(&[]))
    }

    /// A node of one's own, on ports the system chose unless `arguments` name others.
    pub fn start(arguments: &[&str]) -> Self {
        let process = Process::start("node", Self::command(arguments));
        let (grpc, metrics) = (process.address("grpc"), process.address("metrics"));
        Self { process, grpc, metrics }
    }

    /// The command that starts a node.
    pub fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(artefact::binary("littoral-node"));
        command.args(["serve", "--log-format", "json"]).args(arguments);
        let defaults = [("--listen", "127.0.0.1:0"), ("--metrics", "127.0.0.1:0"), ("--device", "cpu")];
        for (flag, value) in defaults {
            if !arguments.contains(&flag) {
                command.args([flag, value]);
            }
        }
        if !arguments.contains(&"--model") {
            command.arg("--model").arg(artefact::model()).args(["--name", MODEL]);
        }
        command
    }

    pub async fn metrics(&self) -> Metrics {
        Metrics::of(self.metrics).await
    }

    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    pub async fn describe(&self) -> NodeInfo {
        describe(self.grpc).await
    }
}

/// A `logit_bias` that keeps the default model from either of its ends: an answer is as long as it may be.
pub fn endless() -> Value {
    json!({"0": -100, "2": -100})
}

/// What the node at this address says of itself.
pub async fn describe(address: SocketAddr) -> NodeInfo {
    let client = NodeClient::connect(format!("http://{address}")).await;
    let mut client = client.unwrap_or_else(|e| panic!("{address}: {e}"));
    client.describe(DescribeRequest {}).await.unwrap_or_else(|e| panic!("{address}: {e}")).into_inner()
}
