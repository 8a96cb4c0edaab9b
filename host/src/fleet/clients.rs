//! A worker's way to the nodes: one connection each, opened when first needed, many streams on it.

use std::{collections::HashMap, time::Duration};

use littoral_proto::{MAX_MESSAGE_BYTES, v1::node_client::NodeClient};
use tonic::transport::{Channel, Endpoint};

use crate::config;

/// gRPC clients of one worker, by node name. Connections stay on the thread that made them.
pub struct Clients(HashMap<String, NodeClient<Channel>>);

impl Clients {
    /// Must be called inside the worker's runtime, which drives the connections.
    pub fn new(nodes: &[config::Node]) -> Result<Self, tonic::transport::Error> {
        let clients = nodes.iter().map(|node| Ok((node.name().to_string(), connect(&node.address)?)));
        clients.collect::<Result<_, _>>().map(Self)
    }

    pub fn get(&self, node: &str) -> Option<NodeClient<Channel>> {
        self.0.get(node).cloned()
    }
}

/// A client of the node at `address`. Connects when first used, and again after every loss.
pub fn connect(address: &str) -> Result<NodeClient<Channel>, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .http2_keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        // A slow client's stream holds back at most 256 KiB, out of 16 MiB that all streams share.
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(16 << 20);
    let client = NodeClient::new(endpoint.connect_lazy());
    Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
}
