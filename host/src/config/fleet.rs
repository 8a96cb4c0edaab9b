//! The section `fleet`: how nodes are chosen, and when they are left alone.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use littoral_core::fleet::{Balance, Policy, standing::Rules};
use serde::Deserialize;

use super::ConfigError;

/// What holds for the whole pool.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fleet {
    /// `session`, `least-connections`, `power-of-two`, `round-robin` or `random`.
    pub policy: Policy,
    /// How much over its fair share of the load a session's home may be.
    pub load_factor: f32,
    /// Failures in a row that take a node out.
    pub breaker_failures: u32,
    /// How long it is out the first time, milliseconds; each time after doubles it, up to `breaker_max_ms`.
    pub breaker_ms: u64,
    pub breaker_max_ms: u64,
    /// How long a node that came back gets less than its share, milliseconds.
    pub slow_start_ms: u64,
    /// Retries that each request pays for.
    pub retry_ratio: f64,
    /// Retries a second that need no request.
    pub retry_reserve: f64,
    /// How long the first token may take before a second node is asked for it as well, milliseconds; 0 = never.
    pub hedge_ms: u64,
    /// How long an `openai` node may say nothing, before its answer and within it, milliseconds; then another is asked.
    pub silence_ms: u64,
    /// Requests a node may have more than it has slots before they are turned away here.
    pub max_queue: u32,
    /// How long a request waits for a node while none is ready, milliseconds; streams get comments meanwhile.
    pub wait_ms: u64,
    /// How often a broken stream may be continued elsewhere.
    pub max_resumes: u32,
    /// Idle connections kept to each `openai` node, all workers together; by default min(50, 2 x cores + 5).
    pub pool_size: Option<usize>,
    /// How long an idle connection is kept, milliseconds.
    pub pool_keep_alive_ms: u64,
    /// A file of further `[[node]]` sections, read again and again.
    pub nodes_file: Option<PathBuf>,
    /// Names behind which nodes are: `name:port` (A, AAAA), or a name that begins with `_` (SRV).
    pub dns: Vec<String>,
    /// The name server to ask instead of the system's.
    pub dns_server: Option<SocketAddr>,
    /// How often file and DNS are asked, milliseconds.
    pub discover_ms: u64,
    /// How long a node stays that DNS no longer names, milliseconds.
    pub discover_grace_ms: u64,
    /// Other names for models: `name = "model"`.
    pub aliases: BTreeMap<String, String>,
}

impl Default for Fleet {
    fn default() -> Self {
        let (balance, rules) = (Balance::default(), Rules::default());
        Self {
            policy: balance.policy,
            load_factor: balance.load_factor,
            breaker_failures: rules.failures,
            breaker_ms: rules.open_ms,
            breaker_max_ms: rules.max_open_ms,
            slow_start_ms: rules.ramp_ms,
            retry_ratio: 0.2,
            retry_reserve: 10.0,
            hedge_ms: 0,
            silence_ms: 120_000,
            max_queue: 1024,
            wait_ms: 0,
            max_resumes: 5,
            pool_size: None,
            pool_keep_alive_ms: 60_000,
            nodes_file: None,
            dns: Vec::new(),
            dns_server: None,
            discover_ms: 5_000,
            discover_grace_ms: 30_000,
            aliases: BTreeMap::new(),
        }
    }
}

impl Fleet {
    pub fn balance(&self) -> Balance {
        Balance { policy: self.policy, load_factor: self.load_factor }
    }

    pub fn rules(&self) -> Rules {
        Rules {
            failures: self.breaker_failures,
            open_ms: self.breaker_ms,
            max_open_ms: self.breaker_max_ms,
            ramp_ms: self.slow_start_ms,
        }
    }

    /// Idle connections kept to each node: what was configured, else min(50, 2 x cores + 5).
    pub fn pool_size(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.pool_size.unwrap_or_else(|| (2 * cores() + 5).min(50))
    }

    /// Whether nodes may come that are not configured.
    pub fn discovers(&self) -> bool {
        self.nodes_file.is_some() || !self.dns.is_empty()
    }

    /// None: no hedging.
    pub fn hedge(&self) -> Option<Duration> {
        (self.hedge_ms > 0).then(|| Duration::from_millis(self.hedge_ms))
    }

    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.silence_ms)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key: &str, message: &str| {
            Err(ConfigError::Invalid { key: format!("fleet.{key}"), message: message.into() })
        };
        if !(1.0..=100.0).contains(&self.load_factor) {
            return refuse("load_factor", "must be between 1 and 100");
        }
        if self.breaker_failures == 0 {
            return refuse("breaker_failures", "must be at least 1");
        }
        if self.breaker_ms == 0 {
            return refuse("breaker_ms", "must be at least 1");
        }
        if self.breaker_max_ms < self.breaker_ms {
            return refuse("breaker_max_ms", "must be at least breaker_ms");
        }
        if let Some((name, _)) = self.aliases.iter().find(|(name, model)| name == model) {
            return refuse(&format!("aliases.{name}"), "is the model's own name");
        }
        if !(0.0..=10.0).contains(&self.retry_ratio) {
            return refuse("retry_ratio", "must be between 0 and 10");
        }
        if !(0.0..=100_000.0).contains(&self.retry_reserve) {
            return refuse("retry_reserve", "must be between 0 and 100000");
        }
        if self.silence_ms == 0 {
            return refuse("silence_ms", "must be at least 1");
        }
        if self.discover_ms == 0 {
            return refuse("discover_ms", "must be at least 1");
        }
        for name in &self.dns {
            let port =
                name.rsplit_once(':').and_then(|(host, port)| Some((!host.is_empty()).then_some(port)?.parse::<u16>()));
            let fits = if name.starts_with('_') { !name.contains(':') } else { matches!(port, Some(Ok(1..))) };
            if !fits {
                return refuse("dns", "names are name:port, or begin with '_' and have no port (SRV)");
            }
        }
        Ok(())
    }
}
