//! Addresses of a Redis or a Redis Cluster, and the connections made to them.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
};

const SCHEMES: [&str; 4] = ["redis", "rediss", "redis-cluster", "rediss-cluster"];

/// The longest that a node of a cluster may take to answer; longer than any command waits by itself.
const LONGEST: Duration = Duration::from_secs(2);

/// `redis://HOST:PORT`, or `redis-cluster://HOST:PORT,HOST:PORT`; `rediss` for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
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
        Some(match scheme.strip_suffix("-cluster") {
            None => Self::One(url.into()),
            Some(scheme) => {
                // Credentials stand before the first host and hold for all.
                let (user, hosts) = hosts.rsplit_once('@').map_or(("", hosts), |(user, hosts)| (user, hosts));
                let at = if user.is_empty() { "" } else { "@" };
                Self::Cluster(hosts.split(',').map(|host| format!("{scheme}://{user}{at}{}", host.trim())).collect())
            }
        })
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Fails when the library cannot read it. Nothing is connected.
    pub fn check(&self) -> RedisResult<()> {
        match self {
            Self::One(url) => Client::open(url.as_str()).map(drop),
            Self::Cluster(urls) => urls.iter().try_for_each(|url| Client::open(url.as_str()).map(drop)),
        }
    }

    /// Clients to listen with, to be tried in this order: in a cluster channels are heard at any node.
    pub fn listeners(&self) -> impl Iterator<Item = RedisResult<Client>> {
        crypto();
        let urls = match self {
            Self::One(url) => std::slice::from_ref(url),
            Self::Cluster(urls) => urls,
        };
        urls.iter().map(|url| Client::open(url.as_str()))
    }

    /// A connection that is made with its first command and made again when it breaks. Must be called inside the runtime
    /// that is to drive it.
    pub fn lasting(&self, patience: Duration) -> RedisResult<Connection> {
        crypto();
        match self {
            Self::One(url) => {
                let settings = ConnectionManagerConfig::new()
                    .set_connection_timeout(Some(patience))
                    .set_response_timeout(Some(patience))
                    .set_min_delay(Duration::from_millis(20))
                    .set_max_delay(Duration::from_millis(500))
                    .set_number_of_retries(2);
                let client = Client::open(url.as_str())?;
                Ok(Connection::Lasting(ConnectionManager::new_lazy_with_config(client, settings)?))
            }
            Self::Cluster(urls) => {
                let nodes = urls.iter().map(String::as_str);
                let builder = ClusterClient::builder(nodes).connection_timeout(patience).response_timeout(patience);
                let pending = builder.build()?.get_pending_async_connection_with_config(<_>::default());
                Ok(Connection::Cluster(pending))
            }
        }
    }

    /// Connects now, once. `making` bounds that; answers are bounded by who waits for them.
    pub async fn connect(&self, making: Duration) -> RedisResult<Connection> {
        crypto();
        Ok(match self {
            Self::One(url) => {
                let config =
                    AsyncConnectionConfig::new().set_connection_timeout(Some(making)).set_response_timeout(None);
                let client = Client::open(url.as_str())?;
                Connection::Once(client.get_multiplexed_async_connection_with_config(&config).await?)
            }
            Self::Cluster(urls) => {
                let nodes = urls.iter().map(String::as_str);
                let builder =
                    ClusterClient::builder(nodes).retries(1).connection_timeout(making).response_timeout(LONGEST);
                Connection::Cluster(builder.build()?.get_async_connection().await?)
            }
        })
    }
}

/// Two crypto libraries are linked, and rustls takes neither by itself. A second call changes nothing.
fn crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
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
        assert_eq!(Address::of("rediss://a:1"), Some(Address::One("rediss://a:1".into())));
        let cluster = Address::of("redis-cluster://ada:pw@a:1, b:2").unwrap();
        assert_eq!(cluster, Address::Cluster(vec!["redis://ada:pw@a:1".into(), "redis://ada:pw@b:2".into()]));
        assert!(cluster.check().is_ok() && Address::One("redis://:x:y".into()).check().is_err());
        assert_eq!(shown("redis://ada:pw@a:1"), "redis://a:1");
    }
}
