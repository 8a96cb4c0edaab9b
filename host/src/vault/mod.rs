//! What outlives a request and may be shared by many edges: keys, revocations, enrolments, and what of each limit is used.
//!
//! One trait, two places: a SQLite file of this machine, or Redis for all edges together. Requests read keys and
//! revocations from memory ([`crate::knowledge`]); only limits ask the store itself.

mod embedded;
mod lost;
mod redis;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use futures::future::BoxFuture;
use littoral_core::ledger::{Correction, Demand, Grant, Refusal};
use tokio::{runtime::Handle, sync::oneshot};

pub use embedded::Embedded;
pub use lost::Limits;
pub use redis::Redis;

use crate::{config, store::Address};

/// How long a first start waits for replicas.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is kept, by id; the values are JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// [`littoral_core::key::KeyRecord`] by key id.
    Keys,
    /// Revoked tokens and subjects.
    Revoked,
    /// Second factors, by tenant and user.
    Factors,
    /// Places a user has been seen at, by tenant and user.
    Places,
    /// Refresh tokens, by digest.
    Refresh,
    /// Things that may happen once: codes that were used.
    Once,
    /// Secrets of the installation itself.
    Secrets,
}

impl Table {
    pub const ALL: [Self; 7] =
        [Self::Keys, Self::Revoked, Self::Factors, Self::Places, Self::Refresh, Self::Once, Self::Secrets];

    pub fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Revoked => "revoked",
            Self::Factors => "factors",
            Self::Places => "places",
            Self::Refresh => "refresh",
            Self::Once => "once",
            Self::Secrets => "secrets",
        }
    }

    /// Edges keep these in memory, and read them again when the store's version changes.
    fn is_mirrored(self) -> bool {
        matches!(self, Self::Keys | Self::Revoked | Self::Factors | Self::Places)
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or did not answer in time. What was asked may have been done.
    #[error("the store cannot be reached: {0}")]
    Lost(String),
    /// It answered, and not with what was asked for.
    #[error("the store answered wrongly: {0}")]
    Wrong(String),
    /// Written, and not acknowledged by as many replicas as `store.min_replicas` asks for.
    #[error("it is done, and is lost if the store's server is lost now: {0}; once a replica is back, do it again")]
    NotReplicated(Replicas),
    /// The same, and what stood there before has been put back.
    #[error("nothing was changed: {0}")]
    PutBack(Replicas),
}

/// How many replicas have a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{got} of {wanted} replicas (store.min_replicas) acknowledged the write within {within_ms} ms")]
pub struct Replicas {
    pub got: i64,
    pub wanted: u32,
    pub within_ms: u32,
}

pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A request's charges, taken together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    pub tenant: String,
    /// Names the request.
    pub lease: String,
    /// How long its slots are held when nobody frees them.
    pub lease_for: Duration,
    pub demands: Vec<Demand>,
}

/// What becomes of a request's charges in the end.
#[derive(Debug, Clone, Default)]
pub struct Settlement {
    pub tenant: String,
    pub lease: String,
    pub corrections: Vec<Correction>,
    /// Keys of the slots to free.
    pub slots: Vec<String>,
}

/// Where all that is kept. Every method may be called from any thread.
pub trait Store: Send + Sync {
    /// Changes with every write to a table that edges keep in memory.
    fn version(&self) -> Answer<'_, u64>;
    /// Every entry that has not expired.
    fn all(&self, table: Table) -> Answer<'_, Vec<(String, Vec<u8>)>>;
    fn get(&self, table: Table, id: &str) -> Answer<'_, Option<Vec<u8>>>;
    /// Writes an entry, durably. `until_ms`: when it is forgotten, Unix milliseconds; none = never.
    fn put(&self, table: Table, id: &str, value: Vec<u8>, until_ms: Option<u64>) -> Answer<'_, ()>;
    /// Writes an entry if there is none; whether there was none.
    fn put_new(&self, table: Table, id: &str, value: Vec<u8>, until_ms: Option<u64>) -> Answer<'_, bool>;
    /// Writes an entry where `before` stands; whether it stood there. `until_ms` as in [`Store::put`].
    fn swap(&self, table: Table, id: &str, before: &[u8], value: Vec<u8>, until_ms: Option<u64>) -> Answer<'_, bool>;
    /// Removes an entry and gives it to one caller only.
    fn take(&self, table: Table, id: &str) -> Answer<'_, Option<Vec<u8>>>;
    fn admit(&self, admission: Admission) -> Answer<'_, Result<Vec<Grant>, Refusal>>;
    /// Settles in the background; tries again while the store cannot be reached.
    fn settle(&self, settlement: Settlement);
    /// Says from now on that an edge uses it, and keeps that edge's slots. Fails where another edge uses it and it is for
    /// one alone.
    fn attend(&self) -> anyhow::Result<()>;
    /// Whether other edges may use it.
    fn is_shared(&self) -> bool {
        false
    }
    /// Edges that use this store now, this one included.
    fn edges(&self) -> u32 {
        1
    }
}

/// Opens the store that the configuration names.
pub fn open(config: &config::Store) -> anyhow::Result<Arc<dyn Store>> {
    match Address::of(&config.url) {
        Some(address) => Ok(Arc::new(Redis::open(&address.trusting(config.ca_file.as_deref())?, config)?)),
        None => Ok(Arc::new(Embedded::open(std::path::Path::new(&config.url))?)),
    }
}

/// Writes an entry that never expires where `before` stood, and puts that back when too few replicas acknowledge the
/// write: who is then refused a new secret goes on with the old one.
pub async fn replace(
    store: &dyn Store,
    (table, id): (Table, &str),
    value: Vec<u8>,
    before: Option<Vec<u8>>,
) -> Result<(), StoreError> {
    match store.put(table, id, value, None).await {
        Err(StoreError::NotReplicated(replicas)) => Err(put_back(store, (table, id), before, replicas).await),
        written => written,
    }
}

/// Writes an entry that never expires where `before` stands, as [`replace`] does; whether it stood there. Nothing that was
/// written meanwhile is lost, neither by the write nor by its being put back.
pub async fn exchange(
    store: &dyn Store,
    (table, id): (Table, &str),
    before: &[u8],
    value: Vec<u8>,
) -> Result<bool, StoreError> {
    match store.swap(table, id, before, value.clone(), None).await {
        Err(StoreError::NotReplicated(replicas)) => match store.swap(table, id, &value, before.to_vec(), None).await {
            Ok(_) | Err(StoreError::NotReplicated(_)) => Err(StoreError::PutBack(replicas)),
            Err(error) => Err(error),
        },
        answer => answer,
    }
}

/// Puts back what stood before a write that `replicas` have. What has become of it, as an error.
pub async fn put_back(
    store: &dyn Store,
    (table, id): (Table, &str),
    before: Option<Vec<u8>>,
    replicas: Replicas,
) -> StoreError {
    let done = match before {
        Some(value) => store.put(table, id, value, None).await,
        None => store.take(table, id).await.map(drop),
    };
    match done {
        // The server has both, one after the other, and a replica that took its place has both or neither.
        Ok(()) | Err(StoreError::NotReplicated(_)) => StoreError::PutBack(replicas),
        Err(error) => error,
    }
}

/// Writes what a first start makes: again for some seconds, where too few replicas acknowledge it because one is busy or
/// only just joins. Nobody shall have to start twice.
pub async fn patiently<T>(write: impl AsyncFn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let began = Instant::now();
    loop {
        match write().await {
            Err(StoreError::NotReplicated(_) | StoreError::PutBack(_)) if began.elapsed() < PATIENCE => {}
            written => return written,
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// A thread with a runtime of its own, for as long as this lives.
struct Own {
    handle: Handle,
    /// Dropping it ends the thread.
    _end: oneshot::Sender<()>,
}

impl Own {
    fn start(name: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let body = move || {
            // Nothing is ever sent: the sender's end is the thread's.
            let _ = runtime.block_on(ended);
        };
        thread::Builder::new().name(name.into()).spawn(body).context("the system gives no further thread")?;
        Ok(Self { handle, _end: end })
    }

    /// What `work` comes to on that thread; none when it has ended.
    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (say, heard) = std::sync::mpsc::channel();
        self.handle.spawn(async move { say.send(work.await) });
        heard.recv().ok()
    }
}
