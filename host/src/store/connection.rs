//! Addresses of a Redis or a Redis Cluster, and the connections made to them.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, TlsCertificates, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
};

use crate::trust::pem;

const SCHEMES: [&str; 4] = ["redis", "rediss", "redis-cluster", "rediss-cluster"];

/// The longest that a node of a cluster may take to answer; longer than any command waits by itself.
const LONGEST: Duration = Duration::from_secs(2);

/// `redis://HOST:PORT`, or `redis-cluster://HOST:PORT,HOST:PORT`; `rediss` for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    servers: Servers,
    /// PEM: whose certificates are believed in place of those that the system names.
    authorities: Option<Arc<[u8]>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Servers {
    One(String),
    /// URLs of some of the cluster's nodes, at least one.
    Cluster(Vec<String>),
}

impl Address {
    /// None when `url` is no address of a Redis.
    pub fn of(url: &str) -> Option<Self> {
        let (scheme, hosts) = url.split_once("://")?;
        if !SCHEMES.contains(&scheme) {
            return None;
        }
        let servers = match scheme.strip_suffix("-cluster") {
            None => Servers::One(url.into()),
            Some(scheme) => {
                // Credentials stand before the first host and hold for all.
                let (user, hosts) = hosts.rsplit_once('@').map_or(("", hosts), |(user, hosts)| (user, hosts));
                let at = if user.is_empty() { "" } else { "@" };
                Servers::Cluster(hosts.split(',').map(|host| format!("{scheme}://{user}{at}{}", host.trim())).collect())
            }
        };
        Some(Self { servers, authorities: None })
    }

    /// Believes the certificates in a PEM file, if one is named, and those they signed; no others.
    pub fn trusting(mut self, file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(file) = file else { return Ok(self) };
        self.authorities = Some(pem(file).context("store.ca_file")?.into());
        Ok(self)
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self.servers, Servers::Cluster(_))
    }

    /// Whether the way there is TLS.
    pub fn is_tls(&self) -> bool {
        self.urls().iter().all(|url| url.starts_with("rediss:"))
    }

    fn urls(&self) -> &[String] {
        match &self.servers {
            Servers::One(url) => std::slice::from_ref(url),
            Servers::Cluster(urls) => urls,
        }
    }

    fn certificates(&self) -> Option<TlsCertificates> {
        let authorities = self.authorities.as_ref().filter(|_| self.is_tls())?;
        Some(TlsCertificates { client_tls: None, root_cert: Some(authorities.to_vec()) })
    }

    fn client(&self, url: &str) -> RedisResult<Client> {
        match self.certificates() {
            Some(certificates) => Client::build_with_tls(url, certificates),
            None => Client::open(url),
        }
    }

    fn cluster(&self, making: Duration) -> ClusterClientBuilder {
        let builder = ClusterClient::builder(self.urls().iter().map(String::as_str)).connection_timeout(making);
        match self.certificates() {
            Some(certificates) => builder.certs(certificates),
            None => builder,
        }
    }

    /// Fails when the library cannot read it. Nothing is connected.
    pub fn check(&self) -> RedisResult<()> {
        self.urls().iter().try_for_each(|url| Client::open(url.as_str()).map(drop))
    }

    /// Clients to listen with, to be tried in this order: in a cluster channels are heard at any node.
    pub fn listeners(&self) -> impl Iterator<Item = RedisResult<Client>> {
        crypto();
        self.urls().iter().map(|url| self.client(url))
    }

    /// A connection that is made with its first command and made again when it breaks. Must be called inside the runtime
    /// that is to drive it.
    pub fn lasting(&self, patience: Duration) -> RedisResult<Connection> {
        crypto();
        match &self.servers {
            Servers::One(url) => {
                let settings = ConnectionManagerConfig::new()
                    .set_connection_timeout(Some(patience))
                    .set_response_timeout(Some(patience))
                    .set_min_delay(Duration::from_millis(20))
                    .set_max_delay(Duration::from_millis(500))
                    .set_number_of_retries(2);
                let client = self.client(url)?;
                Ok(Connection::Lasting(ConnectionManager::new_lazy_with_config(client, settings)?))
            }
            Servers::Cluster(_) => {
                let builder = self.cluster(patience).response_timeout(patience);
                let pending = builder.build()?.get_pending_async_connection_with_config(<_>::default());
                Ok(Connection::Cluster(pending))
            }
        }
    }

    /// What goes wrong at the first of the servers that cannot be reached: a cluster's own error does not say.
    pub async fn trouble(&self, patience: Duration) -> Option<RedisError> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(patience));
        for client in self.listeners() {
            let connected = match client {
                Ok(client) => client.get_multiplexed_async_connection_with_config(&config).await,
                Err(error) => Err(error),
            };
            if let Err(error) = connected {
                return Some(error);
            }
        }
        None
    }

    /// Connects now, once. `making` bounds that; answers are bounded by who waits for them.
    pub async fn connect(&self, making: Duration) -> RedisResult<Connection> {
        crypto();
        Ok(match &self.servers {
            Servers::One(url) => {
                let config =
                    AsyncConnectionConfig::new().set_connection_timeout(Some(making)).set_response_timeout(None);
                let client = self.client(url)?;
                Connection::Once(client.get_multiplexed_async_connection_with_config(&config).await?)
            }
            Servers::Cluster(_) => {
                let builder = self.cluster(making).retries(1).response_timeout(LONGEST);
                Connection::Cluster(builder.build()?.get_async_connection().await?)
            }
        })
    }
}

/// Two crypto libraries are linked, and rustls takes neither by itself. A second call changes nothing.
fn crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Whether an error of a connection says that the server's certificate is not believed. The library hands on the text
/// alone of what went wrong in TLS.
pub fn distrusts(error: &str) -> bool {
    error.contains("invalid peer certificate")
}

/// The address without what stands before `@`.
pub fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or_default()),
        None => url.into(),
    }
}

/// A connection of either kind. Clones share it.
#[derive(Clone)]
pub enum Connection {
    Lasting(ConnectionManager),
    Once(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Lasting(connection) => connection.req_packed_command(cmd),
            Self::Once(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Lasting(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Once(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Lasting(connection) => connection.get_db(),
            Self::Once(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_files() {
        for url in ["littoral.db", "http://a", "redis:/a"] {
            assert_eq!(Address::of(url), None, "{url}");
        }
        let one = Address::of("rediss://a:1").unwrap();
        assert!(one.is_tls() && !one.is_cluster());
        assert_eq!(one.urls(), ["rediss://a:1"]);
        let cluster = Address::of("redis-cluster://ada:pw@a:1, b:2").unwrap();
        assert!(cluster.is_cluster() && !cluster.is_tls());
        assert_eq!(cluster.urls(), ["redis://ada:pw@a:1", "redis://ada:pw@b:2"]);
        assert!(cluster.check().is_ok() && Address::of("redis://:x:y").unwrap().check().is_err());
        assert_eq!(shown("redis://ada:pw@a:1"), "redis://a:1");
    }
    #[test]
    fn a_file_of_authorities_must_hold_one() {
        let address = || Address::of("rediss://a:1").unwrap();
        for file in [file!(), "/nowhere/ca.pem"] {
            let error = address().trusting(Some(Path::new(file))).unwrap_err();
            assert!(format!("{error:#}").contains("store.ca_file"), "{error:#}");
        }
        assert_eq!(address().trusting(None).unwrap(), address());
    }
}
