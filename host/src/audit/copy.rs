//! The second sink: another folder, on another disk as a rule, that follows the log.
//!
//! Files are only ever appended to, so what is missing there is what lies beyond its length. Nothing is removed there, and
//! what differs is not mended: it is told.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{file::files, verify::Head};

const EVERY: Duration = Duration::from_millis(200);
/// Bytes that are copied at once; more than a line has.
const CHUNK: u64 = 4 << 20;

/// See the module.
#[derive(Debug)]
pub struct Copy {
    from: PathBuf,
    to: PathBuf,
    began: Instant,
    /// When the folder last held everything, milliseconds after `began`.
    whole_ms: AtomicU64,
}

impl Copy {
    /// Follows the log in `from` for as long as the result lives.
    pub fn start(from: &Path, to: &Path) -> anyhow::Result<Arc<Self>> {
        fs::create_dir_all(to).with_context(|| format!("the audit log's second folder {}", to.display()))?;
        let copy =
            Arc::new(Self { from: from.into(), to: to.into(), began: Instant::now(), whole_ms: AtomicU64::new(0) });
        let weak = Arc::downgrade(&copy);
        thread::Builder::new().name("audit-copy".into()).spawn(move || follow(&weak))?;
        Ok(copy)
    }

    /// How far the folder lags behind, seconds.
    pub fn lag(&self) -> f64 {
        let since = self.began.elapsed().saturating_sub(Duration::from_millis(self.whole_ms.load(Relaxed)));
        since.saturating_sub(EVERY).as_secs_f64()
    }

    /// Copies what is missing. The log's head goes last: it never says more than is there.
    pub fn catch_up(&self) -> io::Result<()> {
        let head = fs::read(self.from.join(Head::NAME));
        for source in files(&self.from)? {
            if let Some(name) = source.file_name() {
                append(&source, &self.to.join(name))?;
            }
        }
        match head {
            Ok(head) => write_whole(&self.to.join(Head::NAME), &head),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn follow(copy: &Weak<Copy>) {
    let mut told = false;
    while let Some(copy) = copy.upgrade() {
        let began = copy.began.elapsed().as_millis() as u64;
        match copy.catch_up() {
            Ok(()) => {
                copy.whole_ms.store(began, Relaxed);
                told = false;
            }
            Err(error) if !told => {
                tracing::error!(%error, to = %copy.to.display(), "the audit log's second folder cannot follow");
                told = true;
            }
            Err(_) => {}
        }
        drop(copy);
        thread::sleep(EVERY);
    }
}

fn append(source: &Path, target: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut target = options.append(true).create(true).mode(0o600).open(target)?;
    let have = target.metadata()?.len();
    let mut source = File::open(source)?;
    let all = source.metadata()?.len();
    if have > all {
        return Err(io::Error::other(format!("it holds {have} bytes of a file that has {all}")));
    }
    if have == all {
        return Ok(());
    }
    let mut at = have;
    while at < all {
        let mut chunk = Vec::new();
        source.seek(SeekFrom::Start(at))?;
        (&mut source).take((all - at).min(CHUNK)).read_to_end(&mut chunk)?;
        // Half a line may be taken away again, where the disk was full.
        chunk.truncate(chunk.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        if chunk.is_empty() {
            break;
        }
        if let Err(error) = target.write_all(&chunk) {
            // What was written of it is taken away, so that the next try begins where this one did.
            let _ = target.set_len(at);
            return Err(error);
        }
        at += chunk.len() as u64;
    }
    target.sync_data()
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
        thread::sleep(3 * EVERY);
        assert!(copy.lag() > 0.1);
        drop(copy);
        // The last look of the one who follows may be under way, and make what is removed anew.
        let _ = fs::remove_dir_all(&root);
    }
}
