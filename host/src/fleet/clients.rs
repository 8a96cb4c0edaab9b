//! A worker's way to the nodes: one connection each, opened when first needed, many streams on it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use littoral_proto::{MAX_MESSAGE_BYTES, health::health_client::HealthClient, v1::node_client::NodeClient};
use tonic::transport::{Channel, Endpoint};

use super::{Connector, Member, Path};
use crate::{config, error::Error, upstream::Http};

/// Clients of one worker, by node name. Connections stay on the thread that made them.
pub struct Clients {
    grpc: Mutex<HashMap<String, Client>>,
    /// Connections are kept by the way they take and by whose certificates are believed there.
    http: Mutex<Vec<(Way, Http)>>,
    config: config::Fleet,
    workers: usize,
}

type Way = (Path, Option<PathBuf>);

struct Client {
    /// Whose it is: a node of the same name at another address is another node.
    member: Arc<Member>,
    node: NodeClient<Channel>,
}

impl Clients {
    /// The clients of one of so many workers.
    pub fn new(config: &config::Fleet, workers: usize) -> anyhow::Result<Self> {
        let plain = Http::new(config, workers, &config::Node::default())?;
        let http = Mutex::new(vec![(Way::default(), plain)]);
        Ok(Self { grpc: Mutex::default(), http, config: config.clone(), workers })
    }

    /// The connections to a node that speaks HTTP, shared with those that are reached and believed alike.
    pub fn http(&self, node: &config::Node) -> Result<Http, Error> {
        let mut known = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, http)) = known.iter().find(|((path, ca), _)| *path == node.path && *ca == node.ca_file) {
            return Ok(http.clone());
        }
        let made = Http::new(&self.config, self.workers, node);
        let http = made.map_err(|error| {
            tracing::warn!(
                node = node.name(),
                error = format!("{error:#}"),
                "no connection to the upstream can be made"
            );
            Error::NoNode("no connection to the upstream can be made".into())
        })?;
        known.push(((node.path, node.ca_file.clone()), http.clone()));
        Ok(http)
    }

    /// The client of a node. Must be called inside the worker's runtime, which drives the connection.
    pub fn get(&self, member: &Arc<Member>) -> Result<NodeClient<Channel>, tonic::transport::Error> {
        let mut clients = self.grpc.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(member.name())
            && Arc::ptr_eq(&client.member, member)
        {
            return Ok(client.node.clone());
        }
        let node = client(channel(&member.node.address, member.node.path)?);
        // Connections to nodes that are gone go with them.
        clients.retain(|_, client| client.member.is_present());
        clients.insert(member.name().into(), Client { member: member.clone(), node: node.clone() });
        Ok(node)
    }
}

/// A client of the node at `address`. Connects when first used, and again after every loss.
pub fn connect(address: &str) -> Result<NodeClient<Channel>, tonic::transport::Error> {
    Ok(client(channel(address, Path::default())?))
}

fn client(channel: Channel) -> NodeClient<Channel> {
    let client = NodeClient::new(channel);
    client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The two questions a watcher asks, over one connection.
pub fn connect_watcher(
    node: &config::Node,
) -> Result<(NodeClient<Channel>, HealthClient<Channel>), tonic::transport::Error> {
    let channel = channel(&node.address, node.path)?;
    Ok((NodeClient::new(channel.clone()), HealthClient::new(channel)))
}

fn channel(address: &str, path: Path) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        // A slow client's stream holds back at most 256 KiB, out of 16 MiB that all streams share.
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(16 << 20);
    Ok(endpoint.connect_with_connector_lazy(Connector(path)))
}
