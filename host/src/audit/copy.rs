//! The second sink: another folder, on another disk as a rule, that follows the log.
//!
//! Files are only ever appended to, so what is missing there is what lies beyond its length. Lines are taken over once they
//! are on the log's own disk: what a loss of power takes from the log was never in its copy. Nothing is removed there, and
//! what differs is not mended: it is told, for as long as it differs.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{file::files, trail::number, verify::Head};

const EVERY: Duration = Duration::from_millis(200);
/// How often it is said again that the folder cannot follow.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// Bytes that are copied at once; more than a line has.
const CHUNK: u64 = 4 << 20;
/// Bytes of a file's end that are compared: a line's seal speaks for all before it.
const TAIL: u64 = 64 << 10;

/// See the module.
#[derive(Debug)]
pub struct Copy {
    from: PathBuf,
    to: PathBuf,
    began: Instant,
    /// When the folder last held everything, milliseconds after `began`.
    whole_ms: AtomicU64,
    /// Bytes of each file there that are known to be the log's.
    same: Mutex<HashMap<PathBuf, u64>>,
}

impl Copy {
    /// Follows the log in `from` for as long as the result lives.
    pub fn start(from: &Path, to: &Path) -> anyhow::Result<Arc<Self>> {
        fs::create_dir_all(to).with_context(|| format!("the audit log's second folder {}", to.display()))?;
        let copy = Arc::new(Self {
            from: from.into(),
            to: to.into(),
            began: Instant::now(),
            whole_ms: AtomicU64::new(0),
            same: Mutex::default(),
        });
        let weak = Arc::downgrade(&copy);
        thread::Builder::new().name("audit-copy".into()).spawn(move || follow(&weak))?;
        Ok(copy)
    }

    /// How far the folder lags behind, seconds.
    pub fn lag(&self) -> f64 {
        let since = self.began.elapsed().saturating_sub(Duration::from_millis(self.whole_ms.load(Relaxed)));
        since.saturating_sub(EVERY).as_secs_f64()
    }

    /// Copies what is missing, as far as it is on disk. The log's head goes last: it never says more than is there. A file
    /// that differs does not keep the others from being copied.
    pub fn catch_up(&self) -> io::Result<()> {
        let Some((head, synced)) = self.head()? else { return Ok(()) };
        let sources = files(&self.from)?;
        let mut whole = self.knows_all(&sources);
        for source in &sources {
            let copied = match source.file_name() {
                Some(name) => self.append(source, &self.to.join(name), synced),
                None => Ok(()),
            };
            whole = whole.and(copied);
        }
        whole?;
        write_whole(&self.to.join(Head::NAME), &head)
    }

    /// The log's head, and the last line that it says is on disk; none where no log was begun.
    fn head(&self) -> io::Result<Option<(Vec<u8>, u64)>> {
        // It may be read while it is written.
        for _ in 0..3 {
            match fs::read(self.from.join(Head::NAME)) {
                Ok(text) if text.is_empty() => return Ok(None),
                Ok(text) => {
                    if let Some(last) = Head::said(&text) {
                        return Ok(Some((text, last)));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the log's head cannot be read"))
    }

    /// Whether the log has every file that is there, but those older than its oldest.
    fn knows_all(&self, sources: &[PathBuf]) -> io::Result<()> {
        let named: Vec<_> = sources.iter().filter_map(|source| source.file_name()).collect();
        for there in files(&self.to)? {
            let Some(name) = there.file_name() else { continue };
            let newer = named.first().is_some_and(|oldest| name > *oldest);
            if newer && !named.contains(&name) && fs::metadata(&there)?.len() > 0 {
                return Err(differs(&there, "the log has no such file"));
            }
        }
        Ok(())
    }

    /// Takes over what `target` lacks of the lines up to `last`.
    fn append(&self, source: &Path, target: &Path, last: u64) -> io::Result<()> {
        let file = match File::open(source) {
            Ok(file) => file,
            // It was kept for long enough.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let have = match fs::metadata(target) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let all = file.metadata()?.len();
        if have > all {
            return Err(differs(target, &format!("it holds {have} bytes of a file that has {all}")));
        }
        let known = self.same().get(target) == Some(&have);
        if have > 0 && !known {
            let from = have.saturating_sub(TAIL);
            if bytes(&file, from, have)? != bytes(&File::open(target)?, from, have)? {
                return Err(differs(target, &format!("up to byte {have} it is not what the log holds")));
            }
            self.same().insert(target.into(), have);
        }
        let mut at = have;
        let mut opened = None;
        while at < all {
            let mut chunk = bytes(&file, at, all.min(at + CHUNK))?;
            chunk.truncate(settled(&chunk, last));
            if chunk.is_empty() {
                break;
            }
            let target = match &mut opened {
                Some(file) => file,
                none => none.insert(OpenOptions::new().append(true).create(true).mode(0o600).open(target)?),
            };
            if let Err(error) = target.write_all(&chunk) {
                // What was written of it is taken away, so that the next try begins where this one did.
                let _ = target.set_len(at);
                return Err(error);
            }
            at += chunk.len() as u64;
        }
        if let Some(file) = opened {
            file.sync_data()?;
            self.same().insert(target.into(), at);
        }
        Ok(())
    }

    fn same(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, u64>> {
        self.same.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn differs(file: &Path, how: &str) -> io::Error {
    io::Error::other(format!(
        "{}: {how}; move the folder away and keep it, and a new one is filled from the log",
        file.display()
    ))
}

fn bytes(file: &File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (to - from) as usize];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

/// How many bytes of `chunk` are whole lines up to line `last`: half a line may be taken away again, where the disk was
/// full, and what is not on disk may be gone after a loss of power.
fn settled(chunk: &[u8], last: u64) -> usize {
    let ends = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n');
    let mut whole = ends(chunk).map_or(0, |end| end + 1);
    while whole > 0 {
        let begin = ends(&chunk[..whole - 1]).map_or(0, |end| end + 1);
        if number(&chunk[begin..whole]).is_none_or(|seq| seq <= last) {
            break;
        }
        whole = begin;
    }
    whole
}

fn follow(copy: &Weak<Copy>) {
    let mut said: Option<Instant> = None;
    while let Some(copy) = copy.upgrade() {
        let began = copy.began.elapsed().as_millis() as u64;
        match copy.catch_up() {
            Ok(()) => {
                copy.whole_ms.store(began, Relaxed);
                said = None;
            }
            Err(error) if said.is_none_or(|at| at.elapsed() >= SAID_EVERY) => {
                let lag_s = copy.lag();
                tracing::error!(%error, to = %copy.to.display(), lag_s, "the audit log's second folder cannot follow");
                said = Some(Instant::now());
            }
            Err(_) => {}
        }
        drop(copy);
        thread::sleep(EVERY);
    }
}

/// Replaces a file in one step, unless it holds this already.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let part = path.with_extension("part");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(part, path)
}

#[cfg(test)]
mod tests {
    use littoral_core::audit::{Record, event};

    use super::*;
    use crate::{
        audit::{Audit, read_key, verify},
        config,
    };

    #[test]
    fn the_second_folder_follows_and_tells_when_it_cannot() {
        let root = std::env::temp_dir().join(format!("littoral-audit-copy-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let (dir, to) = (root.join("log"), root.join("copy"));
        let settings = config::Audit { dir: Some(dir.clone()), rotate_bytes: 4096, ..config::Audit::default() };
        let audit = Audit::open(&settings).unwrap().unwrap();
        let copy = Copy::start(&dir, &to).unwrap();
        let record = Record { event_type: event::ADMIN.into(), ..Record::default() };
        for i in 0..100 {
            audit.write(&Record { request_id: format!("r{i}"), ..record.clone() }).unwrap();
        }
        let key = read_key(&config::Audit::default().key_file(&dir)).unwrap();
        let began = Instant::now();
        while verify(&to, &key).map_or(0, |report| report.last_seq) < 100 {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", verify(&to, &key));
            thread::sleep(Duration::from_millis(20));
        }
        assert!(files(&to).unwrap().len() > 2);
        // A folder that holds more than the log was tampered with, or belongs to another.
        let first = files(&to).unwrap().remove(0);
        OpenOptions::new().append(true).open(first).unwrap().write_all(b"more\n").unwrap();
        assert!(copy.catch_up().is_err());
        let began = Instant::now();
        while copy.lag() < 0.1 {
            assert!(began.elapsed() < Duration::from_secs(20));
            thread::sleep(EVERY);
        }
        drop(copy);
        // The last look of the one who follows may be under way, and make what is removed anew.
        let _ = fs::remove_dir_all(&root);
    }

    /// A log and a folder that nobody but the test makes follow it; the log is closed.
    fn closed(name: &str, lines: u64) -> (PathBuf, Copy) {
        let root = std::env::temp_dir().join(format!("littoral-audit-copy-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let (from, to) = (root.join("log"), root.join("copy"));
        fs::create_dir_all(&to).unwrap();
        let settings = config::Audit { dir: Some(from.clone()), ..config::Audit::default() };
        let audit = Audit::open(&settings).unwrap().unwrap();
        (0..lines).for_each(|_| drop(audit.write(&Record::default()).unwrap()));
        // Its thread may hold it for a moment longer; the last one to let go writes the head.
        drop(audit);
        let key = read_key(&config::Audit::default().key_file(&from)).unwrap();
        let began = Instant::now();
        while Head::read(&from, &key).ok().flatten().is_none_or(|head| head.last_seq < lines) {
            assert!(began.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(20));
        }
        let (began, whole_ms) = (Instant::now(), AtomicU64::new(0));
        (root, Copy { from, to, began, whole_ms, same: Mutex::default() })
    }

    fn append_to(path: &Path, text: &str) {
        OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn what_is_not_on_disk_yet_is_not_in_the_copy() {
        let (root, copy) = closed("unsynced", 3);
        copy.catch_up().unwrap();
        let source = files(&copy.from).unwrap().remove(0);
        let target = files(&copy.to).unwrap().remove(0);
        let synced = fs::read(&source).unwrap();
        // Two lines that no head speaks of, and half a one.
        append_to(&source, "{\"seq\":4}\n{\"seq\":5}\n{\"seq\"");
        copy.catch_up().unwrap();
        assert_eq!(fs::read(&target).unwrap(), synced);
        // Nor where all of them are copied at once.
        fs::remove_file(&target).unwrap();
        copy.same().clear();
        copy.catch_up().unwrap();
        assert_eq!(fs::read(&target).unwrap(), synced);
        assert_eq!(settled(b"{\"seq\":9}\n", 8), 0);
        assert_eq!(settled(b"{\"seq\":8}\n{\"seq\":9}\n", 8), 10);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_copy_that_says_something_else_is_told_and_not_written_to() {
        let (root, copy) = closed("other", 3);
        copy.catch_up().unwrap();
        let target = files(&copy.to).unwrap().remove(0);
        // As long as the log's own, and other in its last line, as after a loss of power that took the log's.
        let mut other = fs::read(&target).unwrap();
        let at = other.len() - 5;
        other[at] ^= 1;
        fs::write(&target, &other).unwrap();
        // An edge that starts again knows nothing of the folder.
        copy.same().clear();
        for _ in 0..2 {
            let error = copy.catch_up().unwrap_err().to_string();
            assert!(error.contains("not what the log holds") && error.contains("move the folder away"), "{error}");
        }
        assert_eq!(fs::read(&target).unwrap(), other);
        // Nor does the log have what it never wrote.
        fs::remove_file(&target).unwrap();
        fs::write(copy.to.join("audit-00000000000000000009.jsonl"), "{\"seq\":9}\n").unwrap();
        let error = copy.catch_up().unwrap_err().to_string();
        assert!(error.contains("no such file"), "{error}");
        // The rest is copied all the same.
        assert!(target.exists());
        fs::remove_dir_all(&root).unwrap();
    }
}
