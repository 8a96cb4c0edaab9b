//! A worker's way to the nodes: one connection each, opened when first needed, many streams on it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use littoral_proto::{MAX_MESSAGE_BYTES, health::health_client::HealthClient, v1::node_client::NodeClient};
use tonic::transport::{Channel, Endpoint};

use super::Member;
use crate::{config, upstream::Http};

/// Clients of one worker, by node name. Connections stay on the thread that made them.
pub struct Clients {
    grpc: Mutex<HashMap<String, Client>>,
    http: Http,
}

struct Client {
    /// Whose it is: a node of the same name at another address is another node.
    member: Arc<Member>,
    node: NodeClient<Channel>,
}

impl Clients {
    /// The clients of one of so many workers.
    pub fn new(config: &config::Fleet, workers: usize) -> anyhow::Result<Self> {
        Ok(Self { grpc: Mutex::default(), http: Http::new(config, workers)? })
    }

    /// The connections to nodes that speak HTTP.
    pub fn http(&self) -> Http {
        self.http.clone()
    }

    /// The client of a node. Must be called inside the worker's runtime, which drives the connection.
    pub fn get(&self, member: &Arc<Member>) -> Result<NodeClient<Channel>, tonic::transport::Error> {
        let mut clients = self.grpc.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(member.name())
            && Arc::ptr_eq(&client.member, member)
        {
            return Ok(client.node.clone());
        }
        let node = connect(&member.node.address)?;
        // Connections to nodes that are gone go with them.
        clients.retain(|_, client| client.member.is_present());
        clients.insert(member.name().into(), Client { member: member.clone(), node: node.clone() });
        Ok(node)
    }
}

/// A client of the node at `address`. Connects when first used, and again after every loss.
pub fn connect(address: &str) -> Result<NodeClient<Channel>, tonic::transport::Error> {
    let client = NodeClient::new(channel(address)?);
    Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// The two questions a watcher asks, over one connection.
pub fn connect_watcher(address: &str) -> Result<(NodeClient<Channel>, HealthClient<Channel>), tonic::transport::Error> {
    let channel = channel(address)?;
    Ok((NodeClient::new(channel.clone()), HealthClient::new(channel)))
}

fn channel(address: &str) -> Result<Channel, tonic::transport::Error> {
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
    Ok(endpoint.connect_lazy())
}
