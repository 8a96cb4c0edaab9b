//! Nodes that come and go while the edge runs: from a file that is watched, and from DNS (A, AAAA and SRV; a headless
//! service of Kubernetes answers all of them).
//!
//! DNS may flap: a node that is missing from an answer stays for a while, and an answer that does not come changes
//! nothing. Whether a node can be reached is its watcher's to say.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::RData,
};
use tokio::time::{interval, timeout};

use super::Fleet;
use crate::{
    config::{self, Node},
    plan::now_ms,
};

/// Longest wait for an answer of DNS.
const PATIENCE: Duration = Duration::from_secs(3);

/// What DNS said of one name, and when each address was last in its answer, Unix milliseconds.
#[derive(Debug, Default, PartialEq)]
struct Roster(BTreeMap<String, u64>);

impl Roster {
    /// Takes an answer in; none when there was none.
    fn heard(&mut self, now_ms: u64, grace_ms: u64, answer: Option<Vec<String>>) {
        let Some(addresses) = answer else { return };
        for address in addresses {
            self.0.insert(address, now_ms);
        }
        self.0.retain(|_, seen| now_ms.saturating_sub(*seen) <= grace_ms);
    }
}

/// Keeps the fleet's nodes to what was configured, what the file says and what DNS says. Never returns.
pub async fn discover(fleet: Arc<Fleet>, configured: Vec<Node>) {
    let config = fleet.config().clone();
    if config.nodes_file.is_none() && config.dns.is_empty() {
        return std::future::pending().await;
    }
    let resolver = match resolver(config.dns_server) {
        Ok(resolver) => Some(resolver),
        Err(error) => {
            tracing::error!(%error, "DNS cannot be asked for nodes");
            None
        }
    };
    let mut rosters: Vec<Roster> = config.dns.iter().map(|_| Roster::default()).collect();
    let mut from_file = Vec::new();
    let mut told = Told::default();
    let mut known = configured.clone();
    let mut ticks = interval(Duration::from_millis(config.discover_ms));
    loop {
        ticks.tick().await;
        if let Some(path) = &config.nodes_file {
            match read(path.clone()).await {
                Ok(nodes) => {
                    from_file = nodes;
                    told.answers(&path.display().to_string());
                }
                Err(error) => {
                    fleet.discovery_errors.fetch_add(1, Relaxed);
                    told.is_silent(&path.display().to_string(), &error.to_string());
                }
            }
        }
        if let Some(resolver) = &resolver {
            for (name, roster) in config.dns.iter().zip(&mut rosters) {
                let late = || Err("no answer in time".to_string());
                let answer = timeout(PATIENCE, ask(resolver, name)).await.unwrap_or_else(|_| late());
                match &answer {
                    Ok(_) => told.answers(name),
                    Err(error) => {
                        fleet.discovery_errors.fetch_add(1, Relaxed);
                        told.is_silent(name, error);
                    }
                }
                let answer = answer.ok();
                roster.heard(now_ms(), config.discover_grace_ms, answer);
            }
        }
        let mut nodes = configured.clone();
        let found = rosters.iter().flat_map(|roster| roster.0.keys()).map(Node::at);
        for node in from_file.iter().cloned().chain(found) {
            // The first who has a name keeps it.
            if !nodes.iter().any(|other| other.name() == node.name()) {
                nodes.push(node);
            }
        }
        if nodes != known {
            fleet.set_nodes(nodes.clone());
            known = nodes;
        }
    }
}

/// Why the file, or a name of DNS, gives no answer, as the log has it: it is told when that changes.
#[derive(Default)]
struct Told(BTreeMap<String, String>);

impl Told {
    fn is_silent(&mut self, whom: &str, error: &str) {
        if self.0.insert(whom.into(), error.into()).as_deref() != Some(error) {
            tracing::warn!(from = whom, error, "nodes cannot be learned there; those known before stay");
        }
    }

    fn answers(&mut self, whom: &str) {
        if self.0.remove(whom).is_some() {
            tracing::info!(from = whom, "nodes can be learned there again");
        }
    }
}

/// The `[[node]]` sections of a file.
async fn read(path: PathBuf) -> anyhow::Result<Vec<Node>> {
    Ok(config::nodes(&tokio::fs::read_to_string(&path).await?)?)
}

fn resolver(server: Option<SocketAddr>) -> anyhow::Result<TokioResolver> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(address) => {
            let connection = |mut connection: ConnectionConfig| {
                connection.port = address.port();
                connection
            };
            let mut server = NameServerConfig::udp(address.ip());
            server.connections = vec![connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp())];
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    // What is asked again is to be answered anew.
    builder.options_mut().cache_size = 0;
    Ok(builder.build()?)
}

/// `host:port` of every node behind a name: `name:port`, or a name that begins with `_` for SRV.
async fn ask(resolver: &TokioResolver, name: &str) -> Result<Vec<String>, String> {
    if name.starts_with('_') {
        let found = resolver.srv_lookup(name).await.map_err(|e| e.to_string())?;
        let address = |data: &RData| match data {
            RData::SRV(srv) => Some(format!("{}:{}", srv.target.to_utf8().trim_end_matches('.'), srv.port)),
            _ => None,
        };
        return Ok(found.answers().iter().filter_map(|record| address(&record.data)).collect());
    }
    let (host, port) = name.rsplit_once(':').ok_or("no port")?;
    let found = resolver.lookup_ip(host).await.map_err(|e| e.to_string())?;
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    };
    Ok(found.iter().map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_missing_for_a_moment_stays() {
        let addresses = |roster: &Roster| roster.0.keys().cloned().collect::<Vec<_>>();
        let answer = |list: &[&str]| Some(list.iter().map(|a| a.to_string()).collect());
        let mut roster = Roster::default();
        roster.heard(0, 100, answer(&["a:1", "b:1"]));
        roster.heard(50, 100, answer(&["a:1"]));
        roster.heard(90, 100, None);
        roster.heard(100, 100, answer(&[]));
        assert_eq!(addresses(&roster), ["a:1", "b:1"]);
        roster.heard(101, 100, answer(&["a:1"]));
        assert_eq!(addresses(&roster), ["a:1"]);
        roster.heard(10_000, 100, None);
        assert_eq!(addresses(&roster), ["a:1"], "no answer changes nothing");
    }
}
