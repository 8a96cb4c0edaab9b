//! The audit log: one line for every request, chained, on disk before the answer's last byte.
//!
//! A request that was admitted has a begin mark on disk before its answer's first byte, so that a killed edge loses none:
//! at the next start an open mark gets its line with the outcome `interrupted`. Lines are written at once and reach the
//! disk within [`SYNC_EVERY`]; with `audit.strict` answers wait for the disk.

mod copy;
mod file;
mod message;
mod receiver;
mod syslog;
mod ticket;
mod trail;
mod verify;

use std::{
    fmt,
    future::Future,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use littoral_core::audit::Record;
use tokio::sync::watch;

use copy::Copy;
use file::Log;
pub use file::{AuditError, begin};
pub use syslog::Progress;
pub use ticket::{Over, Ticket};
pub use verify::{Report, read_key, verify, walk};

use crate::config;

/// A line reaches the disk at most so much later.
pub const SYNC_EVERY: Duration = Duration::from_millis(50);

/// Waits until a line is on disk.
pub type Synced = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the module.
pub struct Audit {
    log: Mutex<Log>,
    /// Told when there is something to sync.
    dirty: Condvar,
    synced: watch::Sender<u64>,
    strict: bool,
    deny_when_full: bool,
    /// The last line could not be written.
    full: AtomicBool,
    copy: Option<Arc<Copy>>,
    syslog: Option<Arc<Progress>>,
    pub lines: AtomicU64,
    /// Lines that could not be written.
    pub lost: AtomicU64,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("full", &self.full).finish_non_exhaustive()
    }
}

impl Audit {
    /// Goes on with the log in the configured folder, or begins one; none when none is configured.
    pub fn open(config: &config::Audit) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(dir) = &config.dir else { return Ok(None) };
        let key_file = config.key_file(dir);
        let (key, fresh) = file::key(&key_file).context("audit.key")?;
        let log = Log::open(dir, &key, fresh, config)
            .with_context(|| format!("audit.dir: the audit log in {}", dir.display()))?;
        if fresh {
            file::keep_key(&key_file, &key).context("audit.key")?;
        }
        let synced = watch::Sender::new(log.last_synced());
        let syslog = config.syslog.as_ref().map(|to| syslog::start(dir, to, synced.subscribe()));
        let audit = Arc::new(Self {
            synced,
            syslog: syslog.transpose().context("audit.syslog")?,
            log: Mutex::new(log),
            dirty: Condvar::new(),
            strict: config.strict,
            deny_when_full: config.on_full == config::OnFull::Deny,
            full: AtomicBool::new(false),
            copy: config.copy_to.as_ref().map(|to| Copy::start(dir, to)).transpose()?,
            lines: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&audit);
        thread::Builder::new().name("audit".into()).spawn(move || sync_for_ever(&weak))?;
        Ok(Some(audit))
    }

    /// Whether requests are to be refused, because what they do could not be recorded.
    pub fn is_closed(&self) -> bool {
        self.deny_when_full && self.full.load(Relaxed) && !self.try_again()
    }

    /// Whether a request of which nothing could be recorded is to be refused.
    pub fn denies(&self) -> bool {
        self.deny_when_full
    }

    /// Whether the last line could not be written.
    pub fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// How far the second folder lags behind, seconds; 0 without one.
    pub fn copy_lag(&self) -> f64 {
        self.copy.as_ref().map_or(0.0, |copy| copy.lag())
    }

    /// How far the syslog receiver has come, and how many lines it lacks; none without one.
    pub fn syslog(&self) -> Option<(&Progress, u64)> {
        let progress = self.syslog.as_deref()?;
        Some((progress, progress.behind(*self.synced.borrow())))
    }

    /// Marks the beginning of a request. Its line names the mark's number.
    pub fn begin(&self, record: &Record) -> Result<u64, AuditError> {
        self.append(|log| log.begin(record))
    }

    /// Writes a line; in strict mode, what to wait for.
    pub fn write(&self, record: &Record) -> Result<Option<Synced>, AuditError> {
        let seq = self.append(|log| log.write(record))?;
        Ok(self.strict.then(|| self.wait(seq)))
    }

    /// In strict mode, waits until a line is on disk.
    pub async fn synced(&self, seq: u64) {
        if self.strict {
            self.wait(seq).await;
        }
    }

    /// Digest of a canonical request under the log's key.
    pub fn digest(&self, request: &[u8]) -> String {
        // The key never changes: the clone keeps other writers from waiting for a long prompt.
        let chain = self.log().chain().clone();
        chain.digest(request)
    }

    fn wait(&self, seq: u64) -> Synced {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as the edge; without it nothing is left to wait for.
        Box::pin(async move { drop(synced.wait_for(|done| *done >= seq).await) })
    }

    fn append(&self, write: impl FnOnce(&mut Log) -> Result<u64, AuditError>) -> Result<u64, AuditError> {
        let written = write(&mut self.log());
        self.dirty.notify_one();
        match &written {
            Ok(_) => {
                self.lines.fetch_add(1, Relaxed);
                if self.full.swap(false, Relaxed) {
                    tracing::info!("the audit log can be written to again");
                }
            }
            Err(error) => {
                self.lost.fetch_add(1, Relaxed);
                if !self.full.swap(true, Relaxed) {
                    tracing::error!(%error, refusing = self.deny_when_full, "the audit log cannot be written to");
                }
            }
        }
        written
    }

    fn try_again(&self) -> bool {
        let can = self.log().probe();
        if can {
            self.full.store(false, Relaxed);
        }
        can
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Audit {
    /// What an orderly end leaves is on the disk, and said to be in the log's head.
    fn drop(&mut self) {
        let pending = self.log().pending();
        if let Some(Err(error)) = pending.map(|pending| pending.sync()) {
            tracing::error!(%error, "the audit log did not reach the disk");
        }
    }
}

/// Brings what was written to the disk, in groups. Ends with the log it serves.
fn sync_for_ever(audit: &Weak<Audit>) {
    loop {
        let Some(audit) = audit.upgrade() else { return };
        let log = audit.log();
        let (log, _) = audit
            .dirty
            .wait_timeout_while(log, Duration::from_secs(1), |log| !log.is_dirty())
            .unwrap_or_else(PoisonError::into_inner);
        let Some(pending) = log.pending() else { continue };
        drop(log);
        match pending.sync() {
            Ok(()) => {
                let mut log = audit.log();
                log.synced(pending.seq);
                drop(log);
                audit.synced.send_replace(pending.seq);
            }
            Err(error) => {
                tracing::error!(%error, "the audit log did not reach the disk");
                audit.full.store(true, Relaxed);
                thread::sleep(Duration::from_secs(1));
            }
        }
        // Lines that come now share the next trip, unless somebody waits for each.
        let pause = if audit.strict { Duration::from_millis(1) } else { SYNC_EVERY / 2 };
        drop(audit);
        thread::sleep(pause);
    }
}

/// Where the key of a log is unless another place is configured.
pub fn default_key(dir: &Path) -> std::path::PathBuf {
    dir.with_extension("key")
}
