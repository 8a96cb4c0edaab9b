//! A worker's connection to where edges share answers, and when that is left alone.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use littoral_core::fleet::standing::{Rules, Standing};
use redis::{Cmd, FromRedisValue, RedisError, aio::PubSub};
use tokio::time::timeout;

use super::connection::{Address, Connection, distrusts};
use crate::{config, plan::now_ms};

/// How long a new connection may take at least; longer than a command, because it is made once.
const CONNECT: Duration = Duration::from_millis(500);

/// What all connections of an edge share.
pub struct Server {
    address: Address,
    timeout: Duration,
    standing: Mutex<Standing>,
    /// Commands that failed or were not sent.
    pub errors: AtomicU64,
    /// It answers, and takes no writes.
    read_only: AtomicBool,
}

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("the store is left alone after failures")]
    Open,
    #[error("the store did not answer within {} ms", .0.as_millis())]
    Slow(Duration),
    #[error("store.ca_file: the store's certificate is not believed: {0}")]
    Distrusted(RedisError),
    #[error(transparent)]
    Failed(RedisError),
}

impl Trouble {
    /// Whether the store may be there and merely late.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Open | Self::Slow(_))
    }
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        if distrusts(&error.to_string()) { Self::Distrusted(error) } else { Self::Failed(error) }
    }
}

impl Server {
    /// The server at `address`; nothing is connected yet. Fails when `store.ca_file` cannot be read.
    pub fn new(address: Address, config: &config::Store) -> anyhow::Result<Self> {
        let open_ms = config.breaker_ms;
        let rules = Rules { failures: 3, open_ms, max_open_ms: open_ms.saturating_mul(10), ramp_ms: 0 };
        Ok(Self {
            address: address.trusting(config.ca_file.as_deref())?,
            timeout: Duration::from_millis(config.answers_timeout_ms),
            standing: Mutex::new(Standing::new(rules)),
            errors: AtomicU64::new(0),
            read_only: AtomicBool::new(false),
        })
    }

    /// Whether it is left alone.
    pub fn is_open(&self) -> bool {
        lock(&self.standing).is_open()
    }

    /// A connection that listens to channels.
    pub async fn listen(&self) -> Result<PubSub, Trouble> {
        let patience = self.timeout.max(CONNECT);
        let mut last = Trouble::Slow(patience);
        for client in self.address.listeners() {
            let client = client?;
            match timeout(patience, client.get_async_pubsub()).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(error)) => last = error.into(),
                Err(_) => last = Trouble::Slow(patience),
            }
        }
        Err(last)
    }

    async fn connect(&self, patience: Duration) -> Result<Connection, Trouble> {
        let opening = self.address.connect(self.timeout.max(CONNECT));
        Ok(timeout(patience, opening).await.map_err(|_| Trouble::Slow(patience))??)
    }
}

/// One worker's connection, made when first needed. Commands of all its requests share it.
#[derive(Clone)]
pub struct Link {
    server: Arc<Server>,
    connection: Arc<tokio::sync::Mutex<Option<Connection>>>,
}

impl Link {
    pub fn new(server: Arc<Server>) -> Self {
        Self { server, connection: Arc::default() }
    }

    /// Another connection to the same server, for commands that wait.
    pub fn another(&self) -> Self {
        Self::new(self.server.clone())
    }

    /// Says in the log when the store begins to refuse writes, and when it takes them again: reads succeed meanwhile, and
    /// keep it from being left alone.
    pub(super) fn takes_writes(&self, written: &Result<(), Trouble>) {
        let refused = |error: &RedisError| matches!(error.code(), Some("READONLY" | "NOREPLICAS" | "MISCONF" | "OOM"));
        match written {
            Ok(()) if self.server.read_only.swap(false, Relaxed) => tracing::info!("the store takes answers again"),
            Err(Trouble::Failed(error)) if refused(error) && !self.server.read_only.swap(true, Relaxed) => {
                tracing::warn!(%error, "the store takes no answers; they are kept in this process only");
            }
            _ => {}
        }
    }

    /// Sends one command.
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Trouble> {
        self.run_for(command, Duration::ZERO).await
    }

    /// Sends one command that may wait for so long by itself.
    pub async fn run_for<T: FromRedisValue>(&self, command: &Cmd, wait: Duration) -> Result<T, Trouble> {
        if !lock(&self.server.standing).admit(now_ms()) {
            self.server.errors.fetch_add(1, Relaxed);
            return Err(Trouble::Open);
        }
        let result = self.attempt(command, self.server.timeout + wait).await;
        let mut standing = lock(&self.server.standing);
        match &result {
            Ok(_) => standing.succeeded(now_ms()),
            Err(error) => {
                self.server.errors.fetch_add(1, Relaxed);
                if standing.failed(now_ms()) {
                    tracing::warn!(%error, "the store is left alone for a while; answers are kept in this process only");
                }
            }
        }
        result
    }

    async fn attempt<T: FromRedisValue>(&self, command: &Cmd, limit: Duration) -> Result<T, Trouble> {
        let sending = async {
            let mut connection = {
                let mut kept = self.connection.lock().await;
                match &*kept {
                    Some(connection) => connection.clone(),
                    None => kept.insert(self.server.connect(limit).await?).clone(),
                }
            };
            Ok(command.query_async(&mut connection).await?)
        };
        let result = timeout(limit, sending).await.unwrap_or(Err(Trouble::Slow(limit)));
        // A connection that failed is not asked again; one that was merely refused something is.
        let keeps = match &result {
            Ok(_) => true,
            Err(Trouble::Failed(error)) => !error.is_io_error() && !error.is_unrecoverable_error(),
            Err(_) => false,
        };
        if !keeps {
            *self.connection.lock().await = None;
        }
        result
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
