//! The store of a single machine: a SQLite file. `littoral key` writes to it while an edge serves from it.
//!
//! Administrative writes reach the disk before they are acknowledged. Budgets are written before a request is admitted,
//! without waiting for the disk: they survive the end of the process, not of the machine. Rates and slots live in memory.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use littoral_core::{
    ledger::{Ledger, Spent},
    limits::charge_kind,
};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::sync::oneshot;

use super::{Admission, Answer, Settlement, Store, StoreError, Table, now_ms};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS entries (kind TEXT, id TEXT, value BLOB NOT NULL, until_ms INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS budgets (key TEXT PRIMARY KEY, spent INTEGER NOT NULL, until_ms INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT OR IGNORE INTO meta VALUES ('version', 0), ('schema', 1);
";
/// How long a write waits for another process's.
const BUSY: Duration = Duration::from_secs(5);
/// Limits that are remembered before the untouched ones are forgotten.
const SWEEP_AT: usize = 4096;
/// Corrections of budgets are written so much later at most.
const CORRECTED_WITHIN: Duration = Duration::from_millis(100);

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

enum Job {
    Work(Work),
    /// Written before the request is admitted that waits for the answer.
    Budgets(Vec<String>, oneshot::Sender<Result<(), StoreError>>),
    /// Corrections wait: what they give back would only be charged a while longer if the process ended.
    Corrected,
}

/// See the module. Dropping it lets what waits be written first.
pub struct Embedded {
    jobs: mpsc::Sender<Job>,
    counted: Arc<Mutex<Counted>>,
    thread: Option<thread::JoinHandle<()>>,
    path: PathBuf,
    /// Held by the one edge that counts here: a second one would not know what this one has granted.
    edge: Mutex<Option<fs::File>>,
}

struct Counted {
    ledger: Ledger,
    sweep_at: usize,
    /// Budgets whose correction is yet to be written.
    corrected: HashSet<String>,
}

impl Embedded {
    /// Opens the file, which is made when it is not there, readable by its owner alone.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let named = || format!("the store {}; store.url names another", path.display());
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).with_context(named)?;
        }
        // SQLite gives its journal the rights of the file.
        fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).with_context(named)?;
        let connect = |synchronous: &str| -> rusqlite::Result<Connection> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(BUSY)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", synchronous)?;
            Ok(connection)
        };
        let admin = connect("FULL").with_context(named)?;
        admin.execute_batch(SCHEMA).with_context(named)?;
        let hot = connect("NORMAL").with_context(named)?;
        let mut ledger = Ledger::default();
        for (key, spent) in budgets(&hot).with_context(named)? {
            ledger.resume(key, spent);
        }
        let (jobs, queue) = mpsc::channel();
        let counted = Arc::new(Mutex::new(Counted { ledger, sweep_at: SWEEP_AT, corrected: HashSet::new() }));
        let own = counted.clone();
        let thread = thread::Builder::new().name("store".into()).spawn(move || write(queue, admin, hot, &own))?;
        Ok(Self { jobs, counted, thread: Some(thread), path: path.into(), edge: Mutex::default() })
    }

    fn ledger(&self) -> MutexGuard<'_, Counted> {
        lock(&self.counted)
    }

    /// Runs on the store's own thread.
    fn run<T, F>(&self, work: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Job::Work(Box::new(move |connection| drop(answer.send(work(connection).map_err(|e| failed(&e))))));
        // A thread that is gone answers nothing, and that is noticed below.
        let _ = self.jobs.send(job);
        Box::pin(async move { answered.await.unwrap_or_else(|_| Err(StoreError::Lost("it was closed".into()))) })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // The thread ends when the last sender is gone.
        self.jobs = mpsc::channel().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn failed(error: &rusqlite::Error) -> StoreError {
    StoreError::Lost(error.to_string())
}

fn budgets(connection: &Connection) -> rusqlite::Result<Vec<(String, Spent)>> {
    let mut query =
        connection.prepare("SELECT key, spent, until_ms FROM budgets WHERE until_ms = 0 OR until_ms > ?1")?;
    let row = |row: &rusqlite::Row<'_>| {
        let number = |i| row.get::<_, i64>(i).map(|n| n.max(0) as u64);
        Ok((row.get(0)?, Spent { micro_units: number(1)?, until_ms: number(2)? }))
    };
    query.query_map([now_ms() as i64], row)?.collect()
}

fn write(queue: mpsc::Receiver<Job>, mut admin: Connection, mut hot: Connection, counted: &Mutex<Counted>) {
    // Until when corrections may wait.
    let mut due: Option<Instant> = None;
    loop {
        let first = match due {
            None => queue.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(due) => queue.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        let over = matches!(first, Err(mpsc::RecvTimeoutError::Disconnected));
        let (mut keys, mut waiting, mut next) = (HashSet::new(), Vec::new(), first.ok());
        while let Some(job) = next.take() {
            match job {
                Job::Budgets(budgets, answer) => {
                    keys.extend(budgets);
                    waiting.push(answer);
                    next = queue.try_recv().ok();
                }
                Job::Corrected => due = due.or_else(|| Some(Instant::now() + CORRECTED_WITHIN)),
                Job::Work(work) => work(&mut admin),
            }
        }
        if over || due.is_some_and(|due| due <= Instant::now()) {
            due = None;
            keys.extend(std::mem::take(&mut lock(counted).corrected));
        }
        if !keys.is_empty() {
            // As they are now, which is never older than when they were asked to be written.
            let spent = lock(counted).budgets(keys);
            let kept = keep(&mut hot, &spent).map_err(|e| failed(&e));
            if let Err(error) = &kept {
                tracing::error!(%error, "budgets could not be written");
            }
            waiting.into_iter().for_each(|answer| drop(answer.send(kept.clone())));
        }
        if over {
            return;
        }
    }
}

fn lock(counted: &Mutex<Counted>) -> MutexGuard<'_, Counted> {
    counted.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counted {
    fn budgets(&self, keys: HashSet<String>) -> Vec<(String, Spent)> {
        keys.into_iter().filter_map(|key| self.ledger.budget(&key).map(|spent| (key, spent))).collect()
    }
}

fn keep(connection: &mut Connection, spent: &[(String, Spent)]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut write = transaction.prepare_cached("INSERT OR REPLACE INTO budgets VALUES (?1, ?2, ?3)")?;
        for (key, Spent { micro_units, until_ms }) in spent {
            write.execute(params![key, *micro_units as i64, *until_ms as i64])?;
        }
    }
    transaction.commit()
}

fn touch(transaction: &Transaction<'_>, table: Table) -> rusqlite::Result<()> {
    if table.is_mirrored() {
        transaction.execute("UPDATE meta SET value = value + 1 WHERE name = 'version'", [])?;
    }
    transaction.execute("DELETE FROM entries WHERE until_ms <= ?1", [now_ms() as i64]).map(drop)
}

impl Store for Embedded {
    fn version(&self) -> Answer<'_, u64> {
        self.run(|connection| {
            let version = "SELECT value FROM meta WHERE name = 'version'";
            connection.query_row(version, [], |row| row.get::<_, i64>(0)).map(|n| n as u64)
        })
    }

    fn all(&self, table: Table) -> Answer<'_, Vec<(String, Vec<u8>)>> {
        self.run(move |connection| {
            let query = "SELECT id, value FROM entries WHERE kind = ?1 AND (until_ms IS NULL OR until_ms > ?2)";
            let mut query = connection.prepare_cached(query)?;
            let rows = query.query_map(params![table.name(), now_ms() as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
    }

    fn get(&self, table: Table, id: &str) -> Answer<'_, Option<Vec<u8>>> {
        let id = id.to_string();
        self.run(move |connection| {
            let query = "SELECT value FROM entries WHERE kind = ?1 AND id = ?2 AND (until_ms IS NULL OR until_ms > ?3)";
            connection.query_row(query, params![table.name(), id, now_ms() as i64], |row| row.get(0)).optional()
        })
    }

    fn put(&self, table: Table, id: &str, value: Vec<u8>, until_ms: Option<u64>) -> Answer<'_, ()> {
        let id = id.to_string();
        self.run(move |connection| {
            let transaction = connection.transaction()?;
            touch(&transaction, table)?;
            let write = "INSERT OR REPLACE INTO entries VALUES (?1, ?2, ?3, ?4)";
            transaction.execute(write, params![table.name(), id, value, until_ms.map(|ms| ms as i64)])?;
            transaction.commit()
        })
    }

    fn put_new(&self, table: Table, id: &str, value: Vec<u8>, until_ms: Option<u64>) -> Answer<'_, bool> {
        let id = id.to_string();
        self.run(move |connection| {
            let transaction = connection.transaction()?;
            touch(&transaction, table)?;
            let write = "INSERT OR IGNORE INTO entries VALUES (?1, ?2, ?3, ?4)";
            let new = transaction.execute(write, params![table.name(), id, value, until_ms.map(|ms| ms as i64)])?;
            transaction.commit()?;
            Ok(new == 1)
        })
    }

    fn swap(&self, table: Table, id: &str, before: &[u8], value: Vec<u8>, until_ms: Option<u64>) -> Answer<'_, bool> {
        let (id, before) = (id.to_string(), before.to_vec());
        self.run(move |connection| {
            let transaction = connection.transaction()?;
            touch(&transaction, table)?;
            let write = "UPDATE entries SET value = ?4, until_ms = ?5 WHERE kind = ?1 AND id = ?2 AND value = ?3";
            let until_ms = until_ms.map(|ms| ms as i64);
            let swapped = transaction.execute(write, params![table.name(), id, before, value, until_ms])?;
            transaction.commit()?;
            Ok(swapped == 1)
        })
    }

    fn take(&self, table: Table, id: &str) -> Answer<'_, Option<Vec<u8>>> {
        let id = id.to_string();
        self.run(move |connection| {
            let transaction = connection.transaction()?;
            touch(&transaction, table)?;
            let write = "DELETE FROM entries WHERE kind = ?1 AND id = ?2 RETURNING value";
            let taken = transaction.query_row(write, params![table.name(), id], |row| row.get(0)).optional()?;
            transaction.commit()?;
            Ok(taken)
        })
    }

    fn admit(
        &self,
        admission: Admission,
    ) -> Answer<'_, Result<Vec<littoral_core::ledger::Grant>, littoral_core::ledger::Refusal>> {
        let now = now_ms();
        let Admission { lease, lease_for, demands, .. } = admission;
        let mut counted = self.ledger();
        let granted = counted.ledger.admit(&demands, &lease, now + lease_for.as_millis() as u64, now);
        if counted.ledger.len() > counted.sweep_at {
            counted.ledger.sweep(now);
            counted.sweep_at = (2 * counted.ledger.len()).max(SWEEP_AT);
        }
        if granted.is_err() {
            return Box::pin(async move { Ok(granted) });
        }
        let budgets: Vec<_> = demands.into_iter().filter(|demand| demand.kind == charge_kind::BUDGET).collect();
        if budgets.is_empty() {
            return Box::pin(async move { Ok(granted) });
        }
        let keys = budgets.into_iter().map(|demand| demand.key).collect();
        let (answer, answered) = oneshot::channel();
        // The thread lives as long as `self`.
        let _ = self.jobs.send(Job::Budgets(keys, answer));
        drop(counted);
        Box::pin(async move {
            answered.await.unwrap_or_else(|_| Err(StoreError::Lost("it was closed".into())))?;
            Ok(granted)
        })
    }

    fn attend(&self) -> anyhow::Result<()> {
        // Beside the database: a lock on that itself would be in the way of SQLite's own.
        let mut name = self.path.clone().into_os_string();
        name.push("-edge");
        let named = || format!("the store {}", self.path.display());
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&name).with_context(named)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => bail!(
                "store.url: another edge uses {}, and neither would know what the other has granted; name another file, or \
                 a Redis, which is for many",
                self.path.display()
            ),
            Err(fs::TryLockError::Error(error)) => return Err(error).with_context(named),
        }
        *self.edge.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    fn settle(&self, settlement: Settlement) {
        let now = now_ms();
        let mut counted = self.ledger();
        for correction in &settlement.corrections {
            counted.ledger.settle(correction, now);
        }
        for slot in &settlement.slots {
            counted.ledger.release(slot, &settlement.lease);
        }
        let budgets = settlement.corrections.into_iter().filter(|c| c.kind == charge_kind::BUDGET);
        let waited = !counted.corrected.is_empty();
        counted.corrected.extend(budgets.map(|c| c.key));
        if !waited && !counted.corrected.is_empty() {
            // The thread lives as long as `self`.
            let _ = self.jobs.send(Job::Corrected);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use littoral_core::ledger::{Correction, Demand};

    use super::*;

    fn file(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("littoral-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder.join("littoral.db")
    }

    fn budget(amount: u64) -> Admission {
        let demand =
            Demand { kind: "budget".into(), key: "k/total".into(), amount, least: amount, limit: 100, window_ms: 0 };
        Admission { tenant: "t".into(), lease: "l".into(), lease_for: Duration::from_secs(1), demands: vec![demand] }
    }

    #[tokio::test]
    async fn two_processes_see_each_others_entries() {
        let path = file("shared");
        let (one, other) = (Embedded::open(&path).unwrap(), Embedded::open(&path).unwrap());
        let before = other.version().await.unwrap();
        one.put(Table::Keys, "a", b"1".to_vec(), None).await.unwrap();
        assert_ne!(other.version().await.unwrap(), before);
        assert_eq!(other.all(Table::Keys).await.unwrap(), [("a".into(), b"1".to_vec())]);
        assert_eq!(other.get(Table::Keys, "a").await.unwrap().as_deref(), Some(&b"1"[..]));
        assert!(!other.put_new(Table::Keys, "a", b"2".to_vec(), None).await.unwrap());
        assert_eq!(other.take(Table::Keys, "a").await.unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(one.take(Table::Keys, "a").await.unwrap(), None);
        one.put(Table::Once, "gone", vec![], Some(1)).await.unwrap();
        assert_eq!(one.get(Table::Once, "gone").await.unwrap(), None);
        assert!(one.put_new(Table::Once, "gone", vec![], None).await.unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_budget_outlives_its_process() {
        let path = file("budget");
        let store = Embedded::open(&path).unwrap();
        store.admit(budget(60)).await.unwrap().unwrap();
        // A second one opens the file as it would be found after a crash: nothing has been closed.
        let after = Embedded::open(&path).unwrap();
        let refusal = after.admit(budget(50)).await.unwrap().unwrap_err();
        assert_eq!(refusal.remaining, 40);
        let correction = Correction {
            kind: "budget".into(),
            key: "k/total".into(),
            granted: 60,
            actual: 10,
            limit: 100,
            window_ms: 0,
            elapsed_ms: 0,
        };
        store.settle(Settlement { corrections: vec![correction], ..Settlement::default() });
        drop(store);
        assert!(Embedded::open(&path).unwrap().admit(budget(90)).await.unwrap().is_ok());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_is_no_database_is_refused_by_name() {
        let path = file("damaged");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "this is not a database, and long enough to be looked at as one").unwrap();
        let error = format!("{:#}", Embedded::open(&path).err().unwrap());
        assert!(error.contains("littoral.db") && error.contains("store.url"), "{error}");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
