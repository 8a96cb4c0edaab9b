//! The files of the audit log: appended to, rotated, and taken up again after a crash.
//!
//! A file is called after its first line's number. `head` beside them says, sealed with the key, which lines must be there:
//! the oldest that is kept, and the last that was synced. It is there before the first line and before the key is: lines
//! without it, or a key without it, were left by somebody who took the rest away.

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
    /// The last try to go on in a new file failed.
    stuck: bool,
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
    /// Takes the log in `dir` up where it was left; with a `fresh` key, begins one.
    pub fn open(dir: &Path, key: &[u8; KEY_BYTES], fresh: bool, config: &config::Audit) -> anyhow::Result<Self> {
        let head_file = locked(dir)?;
        let head = if fresh { new_head(dir, &head_file, key)? } else { kept_head(dir, key)? };
        let mut files = files(dir)?;
        let mut chain = Chain::new(key, 0, GENESIS);
        let (mut open, mut len) = (BTreeMap::new(), 0);
        let mut path = None;
        while let Some(last) = files.pop() {
            len = resume(&last, &mut chain, &mut open)?;
            if len > 0 {
                path = Some(last);
                break;
            }
            // Its edge ended before its first line: what is open stands in the file before it.
            fs::remove_file(&last)?;
        }
        if head.last_seq > chain.seq {
            tracing::error!(
                expected = head.last_seq,
                found = chain.seq,
                "the audit log was cut: lines that were on disk are gone; it goes on after the gap"
            );
            (chain.seq, chain.seal) = (head.last_seq, head.last_seal);
            // In a file of its own: a file's lines follow one another.
            (path, len) = (None, 0);
        }
        let path = path.unwrap_or_else(|| dir.join(name(chain.seq + 1)));
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(&path).context("cannot be opened")?;
        file.set_len(len)?;
        File::open(dir)?.sync_all()?;
        let mut log = Self {
            dir: dir.into(),
            first_seq: head.first_seq,
            // What the head does not speak of is synced with the next lines, or at once.
            synced: head.last_seq,
            chain,
            file: Arc::new(file),
            len,
            head: Arc::new(head_file),
            open,
            rotate_bytes: config.rotate_bytes,
            stuck: false,
            keep: Duration::from_secs(config.keep_days * 86_400),
        };
        for (seq, mark) in log.open.clone() {
            tracing::warn!(request_id = mark.request_id, "a request was interrupted by the end of the edge");
            let outcome = Outcome { result: "interrupted".into(), ..Outcome::default() };
            let timestamp = calendar::rfc3339(now_ms());
            let event_type = event::REQUEST.into();
            log.write(&Record { timestamp, event_type, outcome: Some(outcome), begin: Some(seq), ..mark })?;
        }
        Ok(log)
    }

    /// The last line that is known to be on disk.
    pub fn last_synced(&self) -> u64 {
        self.synced
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
            let rotated = self.rotate();
            // The file that there is takes what it can.
            if let (Err(error), false) = (&rotated, self.stuck) {
                tracing::error!(%error, "the audit log cannot go on in a new file");
            }
            self.stuck = rotated.is_err();
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

    /// Goes on in a new file. Marks of requests under way go with it, so that the last file alone tells what is open; it
    /// has its name when all of them are in it.
    fn rotate(&mut self) -> Result<(), AuditError> {
        self.file.sync_data()?;
        let (mut chain, mut lines) = (self.chain.clone(), Vec::new());
        for (seq, mark) in &self.open {
            let (line, seal) = chain.seal(&Record { begin: Some(*seq), ..mark.clone() });
            chain.advance(seal);
            lines.extend(line);
        }
        let part = self.dir.join("next.part");
        // Of an edge that was killed.
        let _ = fs::remove_file(&part);
        let path = self.dir.join(name(self.chain.seq + 1));
        let written = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&part).and_then(|mut file| {
            file.write_all(&lines)?;
            file.sync_data()?;
            fs::rename(&part, path)?;
            Ok(file)
        });
        let file = written.inspect_err(|_| drop(fs::remove_file(&part)))?;
        (self.file, self.len, self.chain) = (Arc::new(file), lines.len() as u64, chain);
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

/// The head of the log in `dir`, held: one edge writes a log, a second one would break the chain.
fn locked(dir: &Path) -> anyhow::Result<File> {
    fs::DirBuilder::new().recursive(true).create(dir)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let head = options.open(dir.join(Head::NAME))?;
    match head.try_lock() {
        Ok(()) => Ok(head),
        Err(fs::TryLockError::WouldBlock) => {
            bail!("another edge writes to {}; audit.dir names another folder", dir.display())
        }
        Err(fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Begins a log under `key`, where none is. For keys that littoral did not make just now this is an administrator's word
/// that no log was here before.
pub fn begin(dir: &Path, key: &[u8; KEY_BYTES]) -> anyhow::Result<()> {
    let file = locked(dir)?;
    anyhow::ensure!(file.metadata()?.len() == 0, "there is a log in {} already", dir.display());
    new_head(dir, &file, key).map(drop)
}

/// Whether anything of a log but its head is there. The first file is made before its first line.
fn has_lines(dir: &Path) -> io::Result<bool> {
    let found = files(dir)?.iter().map(|path| Ok(fs::metadata(path)?.len() > 0)).collect::<io::Result<Vec<_>>>()?;
    Ok(found.contains(&true))
}

/// Writes the head of a log without lines.
fn new_head(dir: &Path, file: &File, key: &[u8; KEY_BYTES]) -> anyhow::Result<Head> {
    anyhow::ensure!(
        !has_lines(dir)?,
        "it holds lines of a log, and not what belongs to them: put its key and its head back, or move the folder away to \
         begin a new log, and keep it"
    );
    let head = Head { first_seq: 1, last_seq: 0, last_seal: GENESIS };
    file.write_all_at(&head.sealed(&Chain::new(key, 0, GENESIS)), 0)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(head)
}

/// The head of a log that was begun.
fn kept_head(dir: &Path, key: &[u8; KEY_BYTES]) -> anyhow::Result<Head> {
    match Head::read(dir, key)? {
        Some(head) => Ok(head),
        None if !has_lines(dir)? => bail!(
            "there is a key, and no log: if one was here, it was taken away, and its files should come back; if none was, \
             `littoral audit begin {}` begins one with this key",
            dir.display()
        ),
        None => bail!(
            "its head is gone, and lines may be gone with it: put the folder back as it was; or move it away, keep it, and \
             `littoral audit begin {}` begins a new log",
            dir.display()
        ),
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
    "the file was tampered with, or sealed with another key; to begin a new log, move the folder away, keep it, and run \
     `littoral audit begin`"
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

/// The key in `path`, or a new one that is in no file yet; whether it is new.
pub fn key(path: &Path) -> anyhow::Result<([u8; KEY_BYTES], bool)> {
    match super::read_key(path) {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => {
            let mut key = [0; KEY_BYTES];
            aws_lc_rs::rand::fill(&mut key).ok().context("the system gives no random numbers")?;
            Ok((key, true))
        }
        read => Ok((read.with_context(|| named(path))?, false)),
    }
}

/// Writes a new key, once its log was begun.
pub fn keep_key(path: &Path, key: &[u8; KEY_BYTES]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| named(path))?;
    }
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| {
        file.write_all(littoral_core::key::hex(key).as_bytes())?;
        file.sync_all()
    })
    .with_context(|| named(path))
}

fn named(path: &Path) -> String {
    format!("the audit key {}", path.display())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use littoral_core::audit::event;

    use super::*;
    use crate::audit::{Audit, read_key, verify};

    fn settings(name: &str) -> (PathBuf, config::Audit) {
        let root = std::env::temp_dir().join(format!("littoral-audit-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let dir = root.join("log");
        (dir.clone(), config::Audit { dir: Some(dir), rotate_bytes: 4096, ..config::Audit::default() })
    }

    /// The log, once the thread of the one before has let go of it.
    fn open(settings: &config::Audit) -> anyhow::Result<Arc<Audit>> {
        let began = Instant::now();
        loop {
            match Audit::open(settings) {
                Err(error) if format!("{error:#}").contains("another edge") && began.elapsed().as_secs() < 20 => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                opened => return opened.map(|audit| audit.expect("a folder is named")),
            }
        }
    }

    fn mark(id: String) -> Record {
        Record { request_id: id, event_type: event::BEGIN.into(), ..Record::default() }
    }

    #[test]
    fn a_rotation_that_fails_loses_no_open_mark() {
        let (dir, settings) = settings("rotation");
        let audit = open(&settings).unwrap();
        for i in 0..20 {
            audit.begin(&mark(format!("open-{i}"))).unwrap();
        }
        // Nothing can be written there.
        let blocked = dir.join("next.part");
        fs::create_dir_all(blocked.join("full")).unwrap();
        let line = Record { event_type: event::REQUEST.into(), ..Record::default() };
        for _ in 0..40 {
            audit.write(&line).unwrap();
        }
        assert_eq!(files(&dir).unwrap().len(), 1);
        drop(audit);
        // And with room again, at the next start.
        fs::remove_dir_all(&blocked).unwrap();
        let audit = open(&settings).unwrap();
        audit.write(&line).unwrap();
        assert!(files(&dir).unwrap().len() > 1);
        drop(audit);
        let key = read_key(&settings.key_file(&dir)).unwrap();
        let report = verify(&dir, &key).unwrap();
        assert_eq!(report.open, 0);
        let text: String = files(&dir).unwrap().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        assert_eq!(text.matches("interrupted").count(), 20);
        fs::remove_dir_all(dir.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_file_without_a_line_is_no_cut_and_hides_no_open_mark() {
        let (dir, settings) = settings("empty");
        let audit = open(&settings).unwrap();
        for i in 0..3 {
            audit.begin(&mark(format!("open-{i}"))).unwrap();
        }
        drop(audit);
        // As a process leaves them that ends between the file and its first line.
        fs::write(dir.join(name(4)), "").unwrap();
        fs::write(dir.join(name(5)), "{\"seq\":").unwrap();
        drop(open(&settings).unwrap());
        let report = verify(&dir, &read_key(&settings.key_file(&dir)).unwrap()).unwrap();
        assert_eq!((report.lines, report.open), (6, 0));
        fs::remove_dir_all(dir.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_start_that_was_killed_before_its_key_was_kept_is_a_first_start_again() {
        let (dir, settings) = settings("killed");
        let key = settings.key_file(&dir);
        drop(open(&settings).unwrap());
        fs::remove_file(&key).unwrap();
        let audit = open(&settings).unwrap();
        audit.write(&Record::default()).unwrap();
        drop(audit);
        assert_eq!(verify(&dir, &read_key(&key).unwrap()).unwrap().lines, 1);
        // With lines it is none, and makes no key.
        fs::remove_file(&key).unwrap();
        let refused = format!("{:#}", open(&settings).err().unwrap());
        assert!(refused.contains("holds lines") && !key.exists(), "{refused}");
        fs::remove_dir_all(dir.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_key_from_elsewhere_needs_an_administrators_word() {
        let (dir, settings) = settings("word");
        let key = settings.key_file(&dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(&key, "ab".repeat(32)).unwrap();
        let refused = format!("{:#}", open(&settings).err().unwrap());
        assert!(refused.contains("littoral audit begin"), "{refused}");
        begin(&dir, &read_key(&key).unwrap()).unwrap();
        drop(open(&settings).unwrap());
        // Once the edge's thread has let go of it.
        let began = Instant::now();
        let twice = || format!("{:#}", begin(&dir, &read_key(&key).unwrap()).err().unwrap());
        while twice().contains("another edge") {
            assert!(began.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(twice().contains("already"), "{}", twice());
        fs::remove_dir_all(dir.parent().unwrap()).unwrap();
    }
}
