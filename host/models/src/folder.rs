//! The user's cache folder, and temporary folders that become real ones.

use std::{
    ffi::CString,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::Progress;

/// `$XDG_CACHE_HOME/littoral`, or `~/.cache/littoral`.
pub fn cache() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").filter(|dir| dir.is_absolute());
    let base = base.or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base.context("no place for a cache: set HOME or XDG_CACHE_HOME")?.join("littoral"))
}

/// A folder that takes its real name only when it is whole. Dropped before that, it is gone.
pub struct Draft {
    path: PathBuf,
}

impl Draft {
    /// A fresh folder inside `parent`; drafts that a killed process left there are cleared away.
    pub fn new(parent: &Path) -> Result<Self> {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        for entry in fs::read_dir(parent)?.flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|n| n.strip_prefix(".draft-")).and_then(|pid| pid.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let path = parent.join(format!(".draft-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames one thing inside the draft to `real`, over what may be there.
    pub fn publish(&self, inside: &Path, real: &Path) -> Result<()> {
        match fs::rename(inside, real) {
            // Somebody else was quicker with the same folder: theirs is as good.
            Err(_) if real.is_dir() && inside.is_dir() => Ok(()),
            done => done.with_context(|| format!("cannot rename {} to {}", inside.display(), real.display())),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// An error unless the file system of `dir` has `needed` bytes left for `what`.
pub fn require_space(dir: &Path, needed: u64, what: &str) -> Result<()> {
    let free = free_space(dir)?;
    if free < needed {
        let mib = |bytes: u64| bytes >> 20;
        bail!(
            "no disk space for {what}: {} MiB are needed in {}, {} MiB are free; make room, or set XDG_CACHE_HOME to a folder on a larger disk",
            mib(needed),
            dir.display(),
            mib(free)
        );
    }
    Ok(())
}

fn free_space(dir: &Path) -> Result<u64> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: statvfs is plain data, for which all zeroes is a value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends in NUL and `stat` is a valid place to write to; both outlive the call.
    let rc = unsafe { libc::statvfs(path.as_ptr(), &mut stat) };
    if rc != 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("cannot read the free space of {}", dir.display()));
    }
    Ok((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

/// SHA-256 of a file, lower-case hex.
pub fn sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut fs::File::open(path)?, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Does `work` while the growth of `dir` is shown against `total` bytes.
pub fn while_growing<T>(dir: &Path, total: u64, progress: &(dyn Progress + Sync), work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                progress.bytes(size_below(dir).min(total), total);
                thread::sleep(Duration::from_millis(200));
            }
        });
        let result = work();
        over.store(true, Relaxed);
        result
    })
}

/// Bytes of all files below `dir`, as far as they can be read: a download's progress.
fn size_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_below(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Writes `content` to `path` so that readers see the old file or the whole new one; untouched when nothing changed.
pub fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let parent = path.parent().context("a file needs a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let draft = Draft::new(parent)?;
    let inside = draft.path().join("file");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&inside)?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))?;
    draft.publish(&inside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_vanishes_unless_published() -> Result<()> {
        let parent = std::env::temp_dir().join(format!("littoral-draft-{}", std::process::id()));
        let draft = Draft::new(&parent)?;
        let inside = draft.path().join("thing");
        fs::write(&inside, "whole")?;
        draft.publish(&inside, &parent.join("thing"))?;
        let path = draft.path().to_owned();
        drop(draft);
        assert!(!path.exists());
        assert_eq!(fs::read_to_string(parent.join("thing"))?, "whole");
        fs::remove_dir_all(&parent)?;
        Ok(())
    }

    #[test]
    fn too_little_space_says_how_much_is_missing_and_where() {
        let error = require_space(&std::env::temp_dir(), u64::MAX, "a test").unwrap_err().to_string();
        assert!(error.contains("a test") && error.contains("XDG_CACHE_HOME"), "{error}");
    }
}
