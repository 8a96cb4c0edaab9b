//! The store of many edges: one Redis, or a Redis Cluster.
//!
//! Administrative data lies under the hash tag `{littoral}`, what of a tenant's limits is used under `{TENANT}`, so that
//! one script call sees all it needs. Buckets and slots follow the server's clock, so that edges need not agree on theirs.

use std::{
    collections::HashSet,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, anyhow};
use littoral_core::{
    ledger::{Grant, Refusal},
    limits::charge_kind,
};
use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Script};
use tokio::{
    sync::Notify,
    time::{interval, sleep, timeout},
};

use super::{Admission, Answer, Own, Replicas, Settlement, Store, StoreError, Table, now_ms};
use crate::{
    config,
    store::{Address, Connection, distrusts, shown},
};

static ADMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("admit.lua")));
static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("settle.lua")));

/// How long a write waits for its replicas, milliseconds.
const WAIT_MS: u32 = 100;
/// Slots of an edge that does not say so again within this time are free.
const LEASE: Duration = Duration::from_secs(20);
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Settlements that wait for a lost store; beyond them reservations stay charged.
const MOST_UNSETTLED: u32 = 100_000;
/// Between two tries to settle.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);
/// How long an administrative write may take, its wait for replicas included.
const WRITE: Duration = Duration::from_secs(2);
/// How long a server may be away when an edge starts.
const FIRST_CONTACT: Duration = Duration::from_secs(5);

/// See the module.
pub struct Redis {
    own: Own,
    shared: Arc<Shared>,
}

struct Shared {
    /// Of the requests' limits.
    link: Connection,
    /// Of administrative writes, whose wait for replicas would hold up everything behind them.
    writer: Connection,
    patience: Duration,
    min_replicas: u32,
    /// This edge, among those that use the store.
    id: String,
    edges: AtomicU32,
    unsettled: AtomicU32,
    /// Told of every admission: what waits to be settled need wait no longer.
    heard: Notify,
    /// Slots held by requests under way: Redis key by lease and key.
    slots: Mutex<HashSet<(String, String)>>,
}

impl Redis {
    /// Connects, and fails when nobody answers.
    pub fn open(address: &Address, config: &config::Store) -> anyhow::Result<Self> {
        let own = Own::start("store")?;
        let _inside = own.handle.enter();
        let patience = Duration::from_millis(config.timeout_ms);
        if address.is_cluster() && address.is_tls() {
            // A cluster's connection does not say why it cannot be made, and tries for ever.
            let at = address.clone();
            let trouble = own.wait(async move { at.trouble(patience).await }).flatten();
            if let Some(error) = trouble.filter(|error| distrusts(&error.to_string())) {
                return Err(not_reached(failed(&error), config));
            }
        }
        let link = address.lasting(patience).context("store.url")?;
        let shared = Arc::new(Shared {
            link,
            writer: address.lasting(WRITE).context("store.url")?,
            patience,
            min_replicas: config.min_replicas.unwrap_or(u32::from(address.is_cluster())),
            id: format!("{:016x}", rand::random::<u64>()),
            edges: AtomicU32::new(1),
            unsettled: AtomicU32::new(0),
            heard: Notify::new(),
            slots: Mutex::default(),
        });
        let store = Self { own, shared };
        store.first_contact().map_err(|error| not_reached(error, config))?;
        Ok(store)
    }

    /// A cluster needs a moment to be known; what is not there by then is not there.
    fn first_contact(&self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let asking = async move {
            let until = tokio::time::Instant::now() + FIRST_CONTACT;
            let mut answer = shared.query::<Option<u64>>(&version()).await;
            while may_come(&answer) && tokio::time::Instant::now() < until {
                sleep(Duration::from_millis(50)).await;
                answer = shared.query::<Option<u64>>(&version()).await;
            }
            answer.map(drop)
        };
        self.own.wait(asking).unwrap_or_else(|| Err(StoreError::Lost("its thread ended".into())))
    }

    /// Runs on the store's own thread, where its connections live.
    fn run<T, F>(&self, work: impl FnOnce(Arc<Shared>) -> F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let task = self.own.handle.spawn(work(self.shared.clone()));
        Box::pin(async move { task.await.unwrap_or_else(|e| Err(StoreError::Lost(e.to_string()))) })
    }
}

/// Whether a server that did not answer may do so in a moment: one whose certificate is not believed will not.
fn may_come<T>(answer: &Result<T, StoreError>) -> bool {
    answer.as_ref().err().is_some_and(|error| !distrusts(&error.to_string()))
}

/// Why an edge or a command cannot begin, with the key to change.
fn not_reached(error: StoreError, config: &config::Store) -> anyhow::Error {
    let (url, said) = (shown(&config.url), error.to_string());
    if !distrusts(&said) {
        return anyhow::Error::new(error).context(format!("the store {url}; is it running?"));
    }
    match &config.ca_file {
        Some(file) => anyhow!("store.ca_file: {} does not vouch for {url}: {said}", file.display()),
        None => anyhow!("store.ca_file is not set, and this system does not vouch for {url}: {said}"),
    }
}

fn failed(error: &RedisError) -> StoreError {
    let wrong = matches!(error.kind(), ErrorKind::UnexpectedReturnType | ErrorKind::Parse | ErrorKind::Extension);
    if wrong { StoreError::Wrong(error.to_string()) } else { StoreError::Lost(error.to_string()) }
}

fn admin(name: &str) -> String {
    format!("{{littoral}}:{name}")
}

/// Key of an entry, or of the index of a mirrored table.
fn entry(table: Table, id: &str) -> String {
    admin(&format!("{}:{id}", table.name()))
}

fn version() -> Cmd {
    let mut command = redis::cmd("GET");
    command.arg(admin("version"));
    command
}

/// `{TENANT}:KIND:KEY`; braces of a tenant's own would end the hash tag.
fn limit(tenant: &str, kind: &str, key: &str) -> String {
    let tag = tenant.replace('%', "%25").replace('{', "%7B").replace('}', "%7D");
    format!("{{{}}}:{kind}:{key}", if tag.is_empty() { "%" } else { &tag })
}

/// The library's own time-outs begin when a command is sent; a connection that is being made has others.
async fn bounded<T>(patience: Duration, answer: impl Future<Output = RedisResult<T>>) -> Result<T, StoreError> {
    match timeout(patience, answer).await {
        Ok(answer) => answer.map_err(|e| failed(&e)),
        Err(_) => Err(StoreError::Lost(format!("no answer within {} ms", patience.as_millis()))),
    }
}

impl Shared {
    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        bounded(self.patience, command.query_async(&mut self.link.clone())).await
    }

    /// Runs an atomic group of writes and waits for the replicas.
    async fn write<T: FromRedisValue>(&self, writes: Pipeline) -> Result<T, StoreError> {
        let unknown = |error| match error {
            StoreError::Lost(why) => StoreError::Lost(format!("{why}; whether it is done is not known")),
            other => other,
        };
        let answer = bounded(WRITE, writes.query_async(&mut self.writer.clone())).await.map_err(unknown)?;
        if self.min_replicas > 0 {
            let mut wait = redis::cmd("WAIT");
            wait.arg(self.min_replicas).arg(WAIT_MS);
            // In a cluster every primary is asked and the least counts; those that wrote nothing answer at once.
            let got: i64 = bounded(WRITE, wait.query_async(&mut self.writer.clone())).await.map_err(unknown)?;
            if got < i64::from(self.min_replicas) {
                let (wanted, within_ms) = (self.min_replicas, WAIT_MS);
                return Err(StoreError::NotReplicated(Replicas { got, wanted, within_ms }));
            }
        }
        Ok(answer)
    }

    async fn admit(&self, admission: &Admission, now: u64) -> Result<Result<Vec<Grant>, Refusal>, StoreError> {
        let Admission { tenant, lease, demands, .. } = admission;
        let mut call = ADMIT.prepare_invoke();
        call.arg(now).arg(lease).arg(LEASE.as_millis() as u64);
        for demand in demands {
            call.key(limit(tenant, &demand.kind, &demand.key));
            call.arg(&demand.kind).arg(demand.amount).arg(demand.least).arg(demand.limit).arg(demand.window_ms);
        }
        let mut link = self.link.clone();
        let answer: Vec<i64> = bounded(self.patience, call.invoke_async(&mut link)).await?;
        let number = |n: i64| n.max(0) as u64;
        match answer.as_slice() {
            [1, grants @ ..] if grants.len() == 3 * demands.len() => Ok(Ok(grants
                .chunks_exact(3)
                .map(|g| Grant { amount: number(g[0]), remaining: number(g[1]), reset_ms: number(g[2]) })
                .collect())),
            [0, at, remaining, retry, reset] if number(*at) < demands.len() as u64 => Ok(Err(Refusal {
                at: number(*at) as usize,
                remaining: number(*remaining),
                retry_ms: u64::try_from(*retry).ok(),
                reset_ms: number(*reset),
            })),
            other => Err(StoreError::Wrong(format!("{} numbers to {} demands", other.len(), demands.len()))),
        }
    }

    async fn settle(&self, settlement: &Settlement, now: u64) -> Result<(), StoreError> {
        let Settlement { tenant, lease, corrections, slots } = settlement;
        let mut call = SETTLE.prepare_invoke();
        call.arg(now).arg(lease);
        for c in corrections.iter().filter(|c| c.kind != charge_kind::CONCURRENCY) {
            call.key(limit(tenant, &c.kind, &c.key));
            call.arg(&c.kind).arg(c.granted).arg(c.actual).arg(c.limit).arg(c.window_ms).arg(c.elapsed_ms);
        }
        for slot in slots {
            call.key(limit(tenant, charge_kind::CONCURRENCY, slot));
            call.arg(charge_kind::CONCURRENCY).arg(&[0u64; 5]);
        }
        let mut link = self.link.clone();
        bounded(self.patience, call.invoke_async::<i64>(&mut link)).await.map(drop)
    }

    fn slots(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says again which slots are held, and that this edge is here.
    async fn renew_for_ever(&self) {
        let mut ticks = interval(RENEW_EVERY);
        loop {
            ticks.tick().await;
            let (now, until) = (now_ms(), now_ms() + LEASE.as_millis() as u64);
            let mut presence = redis::pipe();
            presence
                .zadd(admin("edges"), &self.id, until)
                .ignore()
                .zrembyscore(admin("edges"), "-inf", now)
                .ignore()
                .zcard(admin("edges"));
            match bounded(WRITE, presence.query_async::<(u32,)>(&mut self.writer.clone())).await {
                Ok((edges,)) => self.edges.store(edges.max(1), Relaxed),
                Err(error) => tracing::warn!(%error, "the store was not told that this edge is here"),
            }
            let held: Vec<_> = self.slots().iter().cloned().collect();
            for (lease, slot) in held {
                let mut renew = redis::cmd("ZADD");
                renew.arg(slot).arg("XX").arg(until).arg(lease);
                if self.query::<i64>(&renew).await.is_err() {
                    break;
                }
            }
        }
    }
}

impl Store for Redis {
    fn version(&self) -> Answer<'_, u64> {
        self.run(|shared| async move { Ok(shared.query::<Option<u64>>(&version()).await?.unwrap_or(0)) })
    }

    fn all(&self, table: Table) -> Answer<'_, Vec<(String, Vec<u8>)>> {
        self.run(move |shared| async move {
            let mut command = redis::cmd("HGETALL");
            command.arg(admin(table.name()));
            let entries: Vec<(String, Vec<u8>)> = shared.query(&command).await?;
            let now = now_ms();
            let open = entries.into_iter().filter_map(|(id, value)| Some((id, unsealed(&value, now)?)));
            Ok(open.collect())
        })
    }

    fn get(&self, table: Table, id: &str) -> Answer<'_, Option<Vec<u8>>> {
        let id = id.to_string();
        self.run(move |shared| async move {
            let value: Option<Vec<u8>> = if table.is_mirrored() {
                shared.query(redis::cmd("HGET").arg(admin(table.name())).arg(id)).await?
            } else {
                shared.query(redis::cmd("GET").arg(entry(table, &id))).await?
            };
            Ok(value.and_then(|value| unsealed(&value, now_ms())))
        })
    }

    fn put(&self, table: Table, id: &str, value: Vec<u8>, until_ms: Option<u64>) -> Answer<'_, ()> {
        let id = id.to_string();
        self.run(move |shared| async move {
            let mut writes = redis::pipe();
            writes.atomic();
            if table.is_mirrored() {
                writes.hset(admin(table.name()), id, sealed(&value, until_ms)).ignore();
                writes.incr(admin("version"), 1).ignore();
            } else {
                writes.add_command(set(table, &id, &value, until_ms, false)).ignore();
            }
            shared.write::<()>(writes).await
        })
    }

    fn put_new(&self, table: Table, id: &str, value: Vec<u8>, until_ms: Option<u64>) -> Answer<'_, bool> {
        let id = id.to_string();
        self.run(move |shared| async move {
            let mut writes = redis::pipe();
            writes.atomic();
            if table.is_mirrored() {
                writes.hset_nx(admin(table.name()), id, sealed(&value, until_ms)).incr(admin("version"), 1).ignore();
                Ok(shared.write::<(i64,)>(writes).await?.0 == 1)
            } else {
                writes.add_command(set(table, &id, &value, until_ms, true));
                Ok(shared.write::<(Option<String>,)>(writes).await?.0.is_some())
            }
        })
    }

    fn swap(&self, table: Table, id: &str, before: &[u8], value: Vec<u8>, until_ms: Option<u64>) -> Answer<'_, bool> {
        let (id, before) = (id.to_string(), before.to_vec());
        self.run(move |shared| async move {
            let mut writes = redis::pipe();
            writes.atomic();
            let mut swap = redis::cmd("EVAL");
            swap.arg(include_str!("swap.lua"));
            if table.is_mirrored() {
                swap.arg(2).arg(admin(table.name())).arg(admin("version")).arg(id);
            } else {
                swap.arg(1).arg(entry(table, &id)).arg("");
            }
            swap.arg(before).arg(sealed(&value, until_ms)).arg(until_ms.unwrap_or(0));
            writes.add_command(swap);
            Ok(shared.write::<(i64,)>(writes).await?.0 == 1)
        })
    }

    fn take(&self, table: Table, id: &str) -> Answer<'_, Option<Vec<u8>>> {
        let id = id.to_string();
        self.run(move |shared| async move {
            let mut writes = redis::pipe();
            writes.atomic();
            let (value,) = if table.is_mirrored() {
                let key = admin(table.name());
                writes.hget(&key, &id).hdel(&key, &id).ignore().incr(admin("version"), 1).ignore();
                shared.write::<(Option<Vec<u8>>,)>(writes).await?
            } else {
                writes.get_del(entry(table, &id));
                shared.write::<(Option<Vec<u8>>,)>(writes).await?
            };
            Ok(value.and_then(|value| unsealed(&value, now_ms())))
        })
    }

    fn admit(&self, admission: Admission) -> Answer<'_, Result<Vec<Grant>, Refusal>> {
        self.run(move |shared| async move {
            let granted = shared.admit(&admission, 0).await?;
            shared.heard.notify_waiters();
            if granted.is_ok() {
                let Admission { tenant, lease, demands, .. } = admission;
                let slots = demands.into_iter().filter(|demand| demand.kind == charge_kind::CONCURRENCY);
                let held = slots.map(|slot| (lease.clone(), limit(&tenant, &slot.kind, &slot.key)));
                shared.slots().extend(held);
            }
            Ok(granted)
        })
    }

    fn settle(&self, settlement: Settlement) {
        let shared = self.shared.clone();
        let Settlement { tenant, lease, slots, .. } = &settlement;
        for slot in slots {
            shared.slots().remove(&(lease.clone(), limit(tenant, charge_kind::CONCURRENCY, slot)));
        }
        if shared.unsettled.fetch_add(1, Relaxed) >= MOST_UNSETTLED {
            shared.unsettled.fetch_sub(1, Relaxed);
            tracing::warn!(tenant, "too many settlements wait for the store; a reservation stays charged");
            return;
        }
        self.own.handle.spawn(async move {
            let began = tokio::time::Instant::now();
            let mut settlement = settlement;
            while let Err(error) = shared.settle(&settlement, 0).await {
                // What was sent and not answered may have been done: doing it twice would give too much back.
                if began.elapsed() > shared.patience && !matches!(error, StoreError::Wrong(_)) {
                    settlement.corrections.retain(|c| c.actual > c.granted);
                }
                if settlement.corrections.is_empty() && settlement.slots.is_empty() {
                    break;
                }
                tracing::debug!(%error, "a settlement waits for the store");
                let _ = timeout(SETTLE_AGAIN, shared.heard.notified()).await;
            }
            shared.unsettled.fetch_sub(1, Relaxed);
        });
    }

    fn attend(&self) -> anyhow::Result<()> {
        let shared = self.shared.clone();
        self.own.handle.spawn(async move { shared.renew_for_ever().await });
        Ok(())
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn edges(&self) -> u32 {
        self.shared.edges.load(Relaxed)
    }
}

/// Fields of a hash have no time-out of their own: the expiry stands before the value, 20 digits.
fn sealed(value: &[u8], until_ms: Option<u64>) -> Vec<u8> {
    [format!("{:020}", until_ms.unwrap_or(0)).as_bytes(), value].concat()
}

/// The value, unless it has expired or is none of ours.
fn unsealed(value: &[u8], now_ms: u64) -> Option<Vec<u8>> {
    let (until, value) = value.split_at_checked(20)?;
    let until: u64 = std::str::from_utf8(until).ok()?.parse().ok()?;
    (until == 0 || until > now_ms).then(|| value.to_vec())
}

fn set(table: Table, id: &str, value: &[u8], until_ms: Option<u64>, new: bool) -> Cmd {
    let mut command = redis::cmd("SET");
    command.arg(entry(table, id)).arg(sealed(value, until_ms));
    if new {
        command.arg("NX");
    }
    if let Some(until) = until_ms {
        command.arg("PXAT").arg(until);
    }
    command
}
