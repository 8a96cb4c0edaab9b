//! The files of the audit log: appended to, rotated, and taken up again after a crash.
//!
//! A file is called after its first line's number. `head` beside them says, sealed with the key, which lines must be there:
//! the oldest that is kept, and the last that was synced.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use littoral_core::{
    audit::{Chain, GENESIS, KEY_BYTES, Outcome, Record, event},
    calendar,
};

use super::verify::Head;
use crate::{config, plan::now_ms};

/// Why a line was not written.
#[derive(Debug, thiserror::Error)]
#[error("the audit log: {0}")]
pub struct AuditError(#[from] io::Error);

/// The open log.
pub struct Log {
    dir: PathBuf,
    chain: Chain,
    file: Arc<File>,
    /// Bytes of the file that are whole lines.
    len: u64,
    first_seq: u64,
    head: Arc<File>,
    synced: u64,
    /// Marks whose request is under way, by number.
    open: BTreeMap<u64, Record>,
    rotate_bytes: u64,
    keep: Duration,
}

/// What is to be brought to the disk.
pub struct Pending {
    file: Arc<File>,
    head_file: Arc<File>,
    head: Vec<u8>,
    pub seq: u64,
}

impl Pending {
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        // The head may lag behind its lines, never the other way round.
        self.head_file.write_all_at(&self.head, 0)
    }
}

impl Log {
    /// Takes the log in `dir` up where it was left, or begins one.
    pub fn open(dir: &Path, key: &[u8; KEY_BYTES], config: &config::Audit) -> anyhow::Result<Self> {
        fs::DirBuilder::new().recursive(true).create(dir)?;
        let head_path = dir.join(Head::NAME);
        let mut options = OpenOptions::new();
        let head_file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&head_path)?;
        lock(&head_file, dir)?;
        let head = Head::read(dir, key)?;
        let files = files(dir)?;
        let mut chain = Chain::new(key, 0, GENESIS);
        let mut open = BTreeMap::new();
        let last = files.last().cloned();
        let (path, len) = match &last {
            None => (dir.join(name(1)), 0),
            Some(path) => (path.clone(), resume(path, &mut chain, &mut open)?),
        };
        if let Some(head) = &head
            && head.last_seq > chain.seq
        {
            tracing::error!(
                expected = head.last_seq,
                found = chain.seq,
                "the audit log was cut: lines that were on disk are gone; it goes on after the gap"
            );
            (chain.seq, chain.seal) = (head.last_seq, head.last_seal);
        }
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(&path).context("cannot be opened")?;
        file.set_len(len)?;
        File::open(dir)?.sync_all()?;
        let mut log = Self {
            dir: dir.into(),
            first_seq: head.map_or(1, |head| head.first_seq),
            synced: chain.seq,
            chain,
            file: Arc::new(file),
            len,
            head: Arc::new(head_file),
            open: BTreeMap::new(),
            rotate_bytes: config.rotate_bytes,
            keep: Duration::from_secs(config.keep_days * 86_400),
        };
        for (seq, mark) in open {
            tracing::warn!(request_id = mark.request_id, "a request was interrupted by the end of the edge");
            let outcome = Outcome { result: "interrupted".into(), ..Outcome::default() };
            let timestamp = calendar::rfc3339(now_ms());
            let event_type = event::REQUEST.into();
            log.write(&Record { timestamp, event_type, outcome: Some(outcome), begin: Some(seq), ..mark })?;
        }
        Ok(log)
    }

    pub fn seq(&self) -> u64 {
        self.chain.seq
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Writes a begin mark and remembers it; its number.
    pub fn begin(&mut self, record: &Record) -> Result<u64, AuditError> {
        let seq = self.append(record)?;
        self.open.insert(seq, record.clone());
        Ok(seq)
    }

    /// Writes a line; its number.
    pub fn write(&mut self, record: &Record) -> Result<u64, AuditError> {
        if self.len >= self.rotate_bytes {
            self.rotate()?;
        }
        let seq = self.append(record)?;
        if let Some(begin) = record.begin {
            self.open.remove(&begin);
        }
        Ok(seq)
    }

    fn append(&mut self, record: &Record) -> Result<u64, AuditError> {
        let (line, seal) = self.chain.seal(record);
        if let Err(error) = (&*self.file).write_all(&line) {
            // Half a line is worse than none.
            let _ = self.file.set_len(self.len);
            return Err(error.into());
        }
        self.chain.advance(seal);
        self.len += line.len() as u64;
        Ok(self.chain.seq)
    }

    /// Whether a line could be written now.
    pub fn probe(&self) -> bool {
        let blank = vec![b' '; 4096];
        let whole = (&*self.file).write_all(&blank).is_ok();
        self.file.set_len(self.len).is_ok() && whole
    }

    /// Goes on in a new file. Marks of requests under way go with it, so that the last file alone tells what is open.
    fn rotate(&mut self) -> Result<(), AuditError> {
        self.file.sync_data()?;
        let path = self.dir.join(name(self.chain.seq + 1));
        self.file = Arc::new(OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?);
        self.len = 0;
        for (seq, mark) in self.open.clone() {
            self.append(&Record { begin: Some(seq), ..mark })?;
        }
        File::open(&self.dir)?.sync_all()?;
        self.remove_old();
        Ok(())
    }

    /// Removes files whose last line is older than what is to be kept.
    fn remove_old(&mut self) {
        let Ok(files) = files(&self.dir) else { return };
        for pair in files.windows(2) {
            let age = fs::metadata(&pair[0]).and_then(|meta| meta.modified());
            let old = age.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > self.keep));
            if !old {
                break;
            }
            if let Err(error) = fs::remove_file(&pair[0]) {
                tracing::warn!(path = %pair[0].display(), %error, "an old audit file could not be removed");
                break;
            }
            self.first_seq = first_seq(&pair[1]).unwrap_or(self.first_seq);
        }
    }

    pub fn is_dirty(&self) -> bool {
        self.synced < self.chain.seq
    }

    /// What is written and not on disk.
    pub fn pending(&self) -> Option<Pending> {
        let (seq, seal) = (self.chain.seq, self.chain.seal);
        let head = Head { first_seq: self.first_seq, last_seq: seq, last_seal: seal };
        let pending =
            Pending { file: self.file.clone(), head_file: self.head.clone(), head: head.sealed(&self.chain), seq };
        self.is_dirty().then_some(pending)
    }

    pub fn synced(&mut self, seq: u64) {
        self.synced = seq;
    }
}

/// One edge writes a log: a second one would break the chain.
fn lock(head: &File, dir: &Path) -> anyhow::Result<()> {
    match head.try_lock() {
        Ok(()) => Ok(()),
        Err(fs::TryLockError::WouldBlock) => {
            bail!("another edge writes to {}; audit.dir names another folder", dir.display())
        }
        Err(fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Reads the last file: where its chain ends, which marks are open, and how many bytes are whole lines.
fn resume(path: &Path, chain: &mut Chain, open: &mut BTreeMap<u64, Record>) -> anyhow::Result<u64> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut line, mut len) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        let Some(text) = line.strip_suffix(b"\n") else {
            tracing::warn!(path = %path.display(), "the last audit line was cut short and is taken away");
            break;
        };
        if len == 0 {
            chain.begin_at(text).with_context(|| format!("{}: {}", path.display(), hint()))?;
        }
        let seq = chain.seq + 1;
        let record = chain.check(text).with_context(|| format!("{}: {}", path.display(), hint()))?;
        match (record.event_type.as_str(), record.begin) {
            (event::BEGIN, begin) => drop(open.insert(begin.unwrap_or(seq), record)),
            (_, Some(begin)) => drop(open.remove(&begin)),
            _ => {}
        }
        len += read as u64;
    }
    Ok(len)
}

fn hint() -> &'static str {
    "the file was tampered with, or sealed with another key; move the folder away to begin a new log, and keep it"
}

fn name(seq: u64) -> String {
    format!("audit-{seq:020}.jsonl")
}

/// Number of a file's first line, by its name.
pub fn first_seq(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok()
}

/// The log's files, oldest first.
pub fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(|p| first_seq(p).is_some()).collect();
    files.sort();
    Ok(files)
}

/// The key in `path`, made when there is none.
pub fn key(path: &Path) -> anyhow::Result<[u8; KEY_BYTES]> {
    let named = || format!("the audit key {}", path.display());
    match super::read_key(path) {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => {
            let mut key = [0; KEY_BYTES];
            aws_lc_rs::rand::fill(&mut key).ok().context("the system gives no random numbers")?;
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(named)?;
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(named)?;
            file.write_all(littoral_core::key::hex(&key).as_bytes())
                .and_then(|()| file.sync_all())
                .with_context(named)?;
            Ok(key)
        }
        read => read,
    }
}
