//! The section `redis`: what edges share.

use serde::Deserialize;

use super::ConfigError;

/// A Redis, or a Redis Cluster, that several edges keep their answers in.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://[user:password@]host:port`; none: every edge keeps its answers to itself. Several are the first nodes
    /// of a cluster.
    pub urls: Vec<String>,
    /// The one URL is a node of a cluster.
    pub cluster: bool,
    /// How long a command may take, milliseconds.
    pub timeout_ms: u64,
    /// How long the store is left alone after three failures in a row, milliseconds; each time after doubles it.
    pub breaker_ms: u64,
}

impl Default for Redis {
    fn default() -> Self {
        Self { urls: Vec::new(), cluster: false, timeout_ms: 30, breaker_ms: 1_000 }
    }
}

impl Redis {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key: &str, message: String| Err(ConfigError::Invalid { key: format!("redis.{key}"), message });
        if self.timeout_ms == 0 || self.breaker_ms == 0 {
            return refuse("timeout_ms", "this and breaker_ms must be at least 1".into());
        }
        for (i, url) in self.urls.iter().enumerate() {
            // The URL may hold a password: it is not quoted.
            if let Err(error) = redis::Client::open(url.as_str()) {
                return refuse(&format!("urls[{i}]"), format!("is no URL of a Redis: {}", error.category()));
            }
        }
        Ok(())
    }
}
