//! A sink over the network: syslog (RFC 5424) over TLS (RFC 5425).
//!
//! The log's own files are the queue, and a file beside them says how far a receiver has it. Syslog acknowledges nothing,
//! but who has read everything answers the end of a TLS connection with its own: from time to time a connection is ended so,
//! and only what was sent before that counts as delivered. After anything else the lines since are sent again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use littoral_core::audit::Record;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{copy::write_whole, message::Sender, receiver::Receiver, trail::Trail};
use crate::{config, plan::now_ms};

/// The file that says which line a receiver has, beside the log's.
const POSITION: &str = "syslog.position";
/// How long a connection is used before its end asks for the receiver's.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);
/// How long the receiver may take for what it has to do.
const PATIENCE: Duration = Duration::from_secs(30);
const MIN_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How far the sink has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// Number of the last line that was sent.
    sent: AtomicU64,
    /// When the oldest line that was not sent was written, Unix milliseconds; 0: none is waiting.
    oldest_ms: AtomicU64,
    /// Connections that broke, or were never made.
    pub failures: AtomicU64,
}

impl Progress {
    /// Age of the oldest line that was not sent, seconds.
    pub fn lag(&self) -> f64 {
        match self.oldest_ms.load(Relaxed) {
            0 => 0.0,
            oldest => now_ms().saturating_sub(oldest) as f64 / 1000.0,
        }
    }

    /// Lines that were not sent, of a log that ends with line `last`.
    pub fn behind(&self, last: u64) -> u64 {
        last.saturating_sub(self.sent.load(Relaxed))
    }
}

/// Why a connection to the receiver came to nothing.
#[derive(Debug, thiserror::Error)]
enum SinkError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it took longer than {} s", PATIENCE.as_secs())]
    Slow,
    #[error("it ended the connection")]
    Closed,
    #[error("the log it serves is gone")]
    Over,
}

struct Syslog {
    dir: PathBuf,
    receiver: Receiver,
    sender: Sender,
    trail: Trail,
    /// The last line the receiver has for certain.
    confirmed: u64,
    /// Number of the last line on disk.
    synced: watch::Receiver<u64>,
    progress: Arc<Progress>,
}

/// Sends the log in `dir` for as long as there are senders of `synced`.
pub fn start(dir: &Path, config: &config::Syslog, synced: watch::Receiver<u64>) -> anyhow::Result<Arc<Progress>> {
    let receiver = Receiver::new(config)?;
    let confirmed = position(dir)?.min(*synced.borrow());
    let progress = Arc::new(Progress::default());
    progress.sent.store(confirmed, Relaxed);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let sink = Syslog {
        dir: dir.into(),
        receiver,
        sender: Sender::new(host.trim(), std::process::id()),
        trail: Trail::new(dir, confirmed + 1),
        confirmed,
        synced,
        progress: progress.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("audit-syslog".into()).spawn(move || runtime.block_on(sink.run()))?;
    Ok(progress)
}

/// The last line that a receiver had; 0 where none has any.
fn position(dir: &Path) -> anyhow::Result<u64> {
    let path = dir.join(POSITION);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().with_context(|| {
            format!("{} holds no line number; without it, the whole log is sent again", path.display())
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

impl Syslog {
    async fn run(mut self) {
        let (mut pause, mut told) = (MIN_PAUSE, false);
        loop {
            match self.deliver().await {
                Ok(()) => {
                    if told {
                        tracing::info!(to = %self.receiver, "the audit log's syslog receiver follows again");
                    }
                    (pause, told) = (MIN_PAUSE, false);
                }
                Err(SinkError::Over) => return,
                Err(error) => {
                    self.progress.failures.fetch_add(1, Relaxed);
                    if !told {
                        tracing::error!(%error, to = %self.receiver, "the audit log's syslog receiver cannot follow");
                        told = true;
                    }
                    self.back();
                    sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    /// Goes back to what the receiver has for certain.
    fn back(&mut self) {
        self.trail.seek(self.confirmed + 1);
        self.progress.sent.store(self.confirmed, Relaxed);
    }

    /// Waits for lines, sends them over one connection, and has the receiver confirm them.
    async fn deliver(&mut self) -> Result<(), SinkError> {
        let mut batch = self.next_batch()?;
        while batch.is_empty() {
            self.synced.changed().await.map_err(|_| SinkError::Over)?;
            batch = self.next_batch()?;
        }
        let connecting = timeout(PATIENCE, self.receiver.connect());
        let (mut from, mut to) = tokio::io::split(connecting.await.map_err(|_| SinkError::Slow)??);
        let until = Instant::now() + CONFIRM_EVERY;
        let mut unasked = [0; 256];
        loop {
            if !batch.is_empty() {
                let sending = async {
                    to.write_all(&batch).await?;
                    to.flush().await
                };
                timeout(PATIENCE, sending).await.map_err(|_| SinkError::Slow)??;
                self.progress.sent.store(self.trail.next() - 1, Relaxed);
                self.progress.oldest_ms.store(0, Relaxed);
            }
            if Instant::now() >= until {
                break;
            }
            batch = self.next_batch()?;
            if !batch.is_empty() {
                continue;
            }
            tokio::select! {
                changed = self.synced.changed() => changed.map_err(|_| SinkError::Over)?,
                // Nothing a receiver says means anything but its end.
                read = from.read(&mut unasked) => if read? == 0 { return Err(SinkError::Closed) },
                () = sleep_until(until) => break,
            }
            batch = self.next_batch()?;
        }
        let ending = async {
            to.shutdown().await?;
            loop {
                match from.read(&mut unasked).await {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    // Some end the connection without a word of TLS; an unread byte would have broken it.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        };
        timeout(PATIENCE, ending).await.map_err(|_| SinkError::Slow)??;
        self.confirmed = self.trail.next() - 1;
        Ok(write_whole(&self.dir.join(POSITION), format!("{}\n", self.confirmed).as_bytes())?)
    }

    /// The next lines as they go out.
    fn next_batch(&mut self) -> io::Result<Vec<u8>> {
        let last = *self.synced.borrow_and_update();
        let lines = self.trail.read(last)?;
        let mut out = Vec::new();
        for (i, line) in lines.iter().enumerate() {
            let record = serde_json::from_slice::<Record>(&line.text).ok();
            if i == 0 {
                let written = record.as_ref().and_then(|record| littoral_core::calendar::parse(&record.timestamp));
                self.progress.oldest_ms.store(written.unwrap_or_else(now_ms), Relaxed);
            }
            self.sender.frame(line, record.as_ref(), &mut out);
        }
        Ok(out)
    }
}
