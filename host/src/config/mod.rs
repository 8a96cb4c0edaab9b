//! The configuration: a TOML file with a typed field and a default for everything.
//!
//! [`read`] refuses what it does not know; [`Config::check`] refuses what cannot work. Both name the key.

mod access;
mod auth;
mod fleet;
mod known;
mod node;
mod read;
mod retrieval;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use littoral_core::{
    address::ForwardedBy,
    cache::{CacheConfig, Policy, Rules, route},
    limits::{Prices, TenantPolicy},
};
use serde::Deserialize;

use crate::guest::GuestConfig;
pub use access::{Admin, Audit, OnFull, OnLoss, Store, Syslog};
pub use auth::{Auth, Issuer, Jwks, LONGEST_TOKEN_S, Token};
pub use fleet::Fleet;
pub use node::{Kind, Node};
pub use read::{ConfigError, nodes, parse, read};
pub use retrieval::Retrieval;

/// The largest `edge.max_body_bytes`: what the wire to the nodes carries (see [`littoral_proto::MAX_MESSAGE_BYTES`]).
const MAX_BODY_CAP: usize = 64 << 20;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub edge: Edge,
    /// The pool, one `[[node]]` each.
    pub node: Vec<Node>,
    pub fleet: Fleet,
    pub cache: Cache,
    pub retrieval: Retrieval,
    pub guest: GuestConfig,
    pub keys: Keys,
    pub store: Store,
    pub audit: Audit,
    pub auth: Auth,
    pub token: Token,
    pub admin: Admin,
    /// Limits of tenants, `[tenant.NAME]`; `*` is every other's.
    pub tenant: BTreeMap<String, TenantPolicy>,
    /// Prices of models, `[price.MODEL]`; `*` is every other's.
    pub price: Prices,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            edge: Edge::default(),
            node: vec![Node::at("127.0.0.1:7433")],
            fleet: Fleet::default(),
            cache: Cache::default(),
            retrieval: Retrieval::default(),
            guest: GuestConfig::default(),
            keys: Keys::default(),
            store: Store::default(),
            audit: Audit::default(),
            auth: Auth::default(),
            token: Token::default(),
            admin: Admin::default(),
            tenant: BTreeMap::new(),
            price: Prices::new(),
        }
    }
}

/// Sockets and limits.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edge {
    /// Where clients connect. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where `/metrics` is served, apart from the clients.
    pub metrics: SocketAddr,
    /// Threads, each with a listener, guests and connections of its own; by default one a core.
    pub workers: Option<usize>,
    /// Networks of the proxies whose word on a client's address counts.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which they name it: `x-forwarded-for` or `forwarded`.
    pub forwarded_by: ForwardedBy,
    /// Whether their connections begin with a PROXY protocol v2 header.
    pub proxy_protocol: bool,
    /// Largest request body, bytes.
    pub max_body_bytes: usize,
    /// Longest a request may take when its plan sets no deadline, milliseconds.
    pub deadline_ms: u64,
    /// Longest wait for a request's head, also on an idle connection, milliseconds.
    pub header_timeout_ms: u64,
    /// Longest wait for a whole request body, milliseconds.
    pub body_timeout_ms: u64,
    /// Connections open at once, all workers together; further ones wait in the system's queue.
    pub max_connections: usize,
    /// How long open answers may go on after the first signal to stop, milliseconds.
    pub drain_timeout_ms: u64,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            metrics: SocketAddr::from(([127, 0, 0, 1], 8081)),
            workers: None,
            trusted_proxies: Vec::new(),
            forwarded_by: ForwardedBy::default(),
            proxy_protocol: false,
            max_body_bytes: 8 << 20,
            deadline_ms: 10 * 60 * 1000,
            header_timeout_ms: 60_000,
            body_timeout_ms: 60_000,
            max_connections: 16_384,
            drain_timeout_ms: 10_000,
        }
    }
}

impl Edge {
    /// The number of threads: what was configured, else one a core.
    pub fn worker_count(&self) -> usize {
        self.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()))
    }

    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

/// The answer cache of this process.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Which answers may be kept: `deterministic`, `always`, `header` or `off`.
    pub policy: Policy,
    /// How long an answer is kept, milliseconds.
    pub ttl_ms: u64,
    /// Other rules for one route: `policy` and `ttl_ms` of `cache.routes.chat`.
    pub routes: BTreeMap<String, Rules>,
    /// Memory all answers together may take, bytes.
    pub max_bytes: u64,
    /// An answer larger than this is not kept, bytes.
    pub max_answer_bytes: usize,
}

impl Default for Cache {
    fn default() -> Self {
        let CacheConfig { policy, ttl_ms, routes } = CacheConfig::default();
        Self { policy, ttl_ms, routes, max_bytes: 64 << 20, max_answer_bytes: 1 << 20 }
    }
}

impl Cache {
    /// The part the guests decide by, as the JSON of [`CacheConfig`].
    pub fn for_guests(&self) -> Vec<u8> {
        let Self { policy, ttl_ms, routes, .. } = self.clone();
        serde_json::to_vec(&CacheConfig { policy, ttl_ms, routes }).expect("names and numbers always serialise")
    }
}

/// API keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// JSON list of further key records, beside those of the store; read again when it changes. It need not exist.
    pub file: PathBuf,
}

impl Default for Keys {
    fn default() -> Self {
        Self { file: "keys.json".into() }
    }
}

impl Config {
    /// Refuses values that are well-formed and cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key: &str, message: String| Err(ConfigError::Invalid { key: key.into(), message });
        let positive = [
            ("edge.workers", self.edge.workers.unwrap_or(1) as u64),
            ("edge.max_body_bytes", self.edge.max_body_bytes as u64),
            ("edge.deadline_ms", self.edge.deadline_ms),
            ("edge.header_timeout_ms", self.edge.header_timeout_ms),
            ("edge.body_timeout_ms", self.edge.body_timeout_ms),
            ("edge.max_connections", self.edge.max_connections as u64),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return refuse(key, "must be at least 1".into());
        }
        if self.edge.max_body_bytes > MAX_BODY_CAP {
            return refuse("edge.max_body_bytes", format!("must be at most {MAX_BODY_CAP}"));
        }
        if let Some(name) = self.cache.routes.keys().find(|name| !route::ALL.contains(&name.as_str())) {
            let known = route::ALL.join(", ");
            return refuse(&format!("cache.routes.{name}"), format!("there is no such route (known: {known})"));
        }
        self.fleet.check()?;
        self.retrieval.check()?;
        if self.edge.proxy_protocol && self.edge.trusted_proxies.is_empty() {
            let message = "needs edge.trusted_proxies: who else would be believed?".into();
            return refuse("edge.proxy_protocol", message);
        }
        access::check(self)?;
        auth::check(&self.auth, &self.token)?;
        if self.node.is_empty() && !self.fleet.discovers() {
            return refuse("node", "no node is named; add [[node]] with its address, or --node HOST:PORT".into());
        }
        check_nodes(&self.node)
    }
}

/// Refuses nodes that cannot be told apart or reached.
fn check_nodes(nodes: &[Node]) -> Result<(), ConfigError> {
    for (i, node) in nodes.iter().enumerate() {
        let refuse = |key, message| Err(ConfigError::Invalid { key: format!("node[{i}].{key}"), message });
        if let Err((key, message)) = node.check() {
            return refuse(key, message);
        }
        if nodes[..i].iter().any(|other| other.name() == node.name()) {
            let key = if node.name.is_some() { "name" } else { "address" };
            return refuse(key, format!("two nodes are called '{}'", node.name()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_work() {
        Config::default().check().unwrap();
        assert_eq!(parse("").unwrap().node[0].name(), "127.0.0.1:7433");
    }

    #[test]
    fn what_the_guests_are_told_is_what_they_read() {
        for (name, policy) in [("always", Policy::Always), ("off", Policy::Off), ("header", Policy::Header)] {
            let cache = Cache { policy, ttl_ms: 7, ..Cache::default() };
            let read: CacheConfig = serde_json::from_slice(&cache.for_guests()).unwrap();
            assert_eq!((read.policy, read.ttl_ms), (policy, 7), "{name}");
        }
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        let cases = [
            ("[edge]\nworkers = 0", "edge.workers"),
            ("[edge]\nmax_body_bytes = 999999999", "edge.max_body_bytes"),
            ("[[node]]\naddress = 'http://a:1'", "node[0].address"),
            ("[[node]]\naddress = 'a:1'\nkind = 'openai'", "node[0].address"),
            ("[[node]]\naddress = 'a'", "node[0].address"),
            ("[[node]]\naddress = ':1'", "node[0].address"),
            ("[[node]]\naddress = 'a:1'\n[[node]]\naddress = 'a:1'", "node[1].address"),
            ("[[node]]\nname = 'x'\naddress = 'a:1'\n[[node]]\nname = 'x'\naddress = 'b:1'", "node[1].name"),
            ("[[node]]\naddress = 'a:1'\nmax_streams = 4", "node[0].max_streams"),
            ("[[node]]\naddress = 'a:1'\nresume = 'prefix'", "node[0].resume"),
            ("[[node]]\naddress = 'a:1'\napi_key_file = 'key'", "node[0].api_key_file"),
            ("[[node]]\naddress = 'a:1'\nmodels = ['m=x']", "node[0].models"),
            ("[[node]]\naddress = 'http://a'\nkind = 'openai'\nmax_streams = 0", "node[0].max_streams"),
            ("[[node]]\naddress = 'http://a'\nkind = 'openai'\nmodels = ['']", "node[0].models"),
            ("[[node]]\naddress = 'http://a'\nkind = 'openai'\nmodels = ['=x']", "node[0].models"),
            ("[[node]]\naddress = 'http://a'\nkind = 'openai'\nmodels = ['a= ']", "node[0].models"),
            ("[[node]]\naddress = 'a:1'\npath.dscp = 64", "node[0].path.dscp"),
            ("[[node]]\naddress = 'https://a'\nkind = 'openai'\nca_file = '/nowhere'", "node[0].ca_file"),
            ("node = []", "node"),
            ("[retrieval]\nurl = 'a:1'", "retrieval.url"),
            ("[retrieval]\nurl = 'http://a:1'\nca_file = 'ca.pem'", "retrieval.ca_file"),
            ("[fleet]\ndns = ['nodes']", "fleet.dns"),
            ("[fleet]\ndns = ['_grpc._tcp.x:5']", "fleet.dns"),
            ("[fleet]\naliases = { a = 'a' }", "fleet.aliases.a"),
            ("[fleet]\nbreaker_ms = 0", "fleet.breaker_ms"),
            ("[fleet]\nsilence_ms = 0", "fleet.silence_ms"),
            ("[fleet]\nload_factor = 0.5", "fleet.load_factor"),
            ("[fleet]\nbreaker_max_ms = 1", "fleet.breaker_max_ms"),
            ("[cache.routes.chta]\npolicy = 'off'", "cache.routes.chta"),
            ("[edge]\nproxy_protocol = true", "edge.proxy_protocol"),
        ];
        for (text, expected) in cases {
            match parse(text).and_then(|config| config.check()) {
                Err(ConfigError::Invalid { key, .. }) => assert_eq!(key, expected),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
