//! The key file: a JSON list of key records, held in memory and read again when the file changes.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use littoral_core::key::KeyRecord;

use crate::admin::keys::NewKey;

/// Records by id, as the JSON the guests read.
type Records = HashMap<String, Vec<u8>>;

/// The keys of this edge.
#[derive(Default)]
pub struct Keys {
    path: PathBuf,
    records: ArcSwap<Records>,
    /// How often they have changed.
    epoch: AtomicU64,
    /// Which state of the file is in memory.
    seen: Mutex<Option<Stamp>>,
    /// Since when the file is not there.
    gone: Mutex<Option<Instant>>,
}

/// A file that is gone for longer was taken away, and is not just being replaced by an editor.
const REPLACED_WITHIN: Duration = Duration::from_secs(2);

/// Inode, size and modification time (s, ns): a renamed-in file differs in the first, an edited one in the others.
type Stamp = (u64, u64, i64, i64);

/// Why a key file was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("the key file {path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("the key file {path} is not a list of key records: {source}; `littoral key create` writes it")]
    Malformed { path: String, source: serde_json::Error },
}

impl Keys {
    /// Reads `path`. A file that is not there yet holds no key, and is read as soon as it is.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let keys = Self { path: path.into(), ..Self::default() };
        keys.refresh()?;
        Ok(keys)
    }

    /// How often the keys have changed.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// Keys the file holds.
    pub fn len(&self) -> usize {
        self.records.load().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// JSON of the record with this id.
    pub fn get(&self, id: &str) -> Option<Vec<u8>> {
        self.records.load().get(id).cloned()
    }

    /// Reads the file again if it changed; how many keys it holds now if it was read, none if it is not there. What is
    /// in memory stays when the file cannot be read, and ends when it is gone for more than a moment.
    pub fn refresh(&self) -> Result<Option<usize>, KeyFileError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = match stamp(&self.path) {
            Ok(stamp) => stamp,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if gone.get_or_insert_with(Instant::now).elapsed() >= REPLACED_WITHIN && !self.is_empty() {
                    tracing::warn!(path = %self.path.display(), keys = self.len(), "the key file is gone, and its keys with it");
                    *seen = None;
                    self.records.store(Records::new().into());
                    self.epoch.fetch_add(1, Relaxed);
                }
                return Ok(None);
            }
            Err(error) => return Err(io_error(&self.path, error)),
        };
        *gone = None;
        if *seen == Some(stamp) {
            return Ok(Some(self.records.load().len()));
        }
        // Once for each state of the file, also when it is malformed.
        *seen = Some(stamp);
        let records: Records = read(&self.path)?
            .into_iter()
            .map(|record| {
                (record.id.clone(), serde_json::to_vec(&record).expect("a key record is strings and numbers"))
            })
            .collect();
        let count = records.len();
        self.records.store(records.into());
        self.epoch.fetch_add(1, Relaxed);
        tracing::info!(path = %self.path.display(), keys = count, "keys read");
        Ok(Some(count))
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    Ok((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

fn read(path: &Path) -> Result<Vec<KeyRecord>, KeyFileError> {
    let text = fs::read(path).map_err(|e| io_error(path, e))?;
    serde_json::from_slice(&text).map_err(|source| KeyFileError::Malformed { path: path.display().to_string(), source })
}

fn io_error(path: &Path, source: io::Error) -> KeyFileError {
    KeyFileError::Io { path: path.display().to_string(), source }
}

/// Makes a key, adds its record to the file and returns the key, which is stored nowhere. The file is replaced in one
/// step, readable by its owner alone; two creations at once both count.
pub fn create(path: &Path, new: NewKey) -> Result<String, KeyFileError> {
    let failed = |error| io_error(path, error);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(failed)?;
    // Held until the end of the function.
    let lock = File::open(folder).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let mut records = if path.exists() { read(path)? } else { Vec::new() };
    let (record, key) = new.record().map_err(|e| failed(io::Error::other(e)))?;
    records.push(record);
    let mut text = serde_json::to_vec_pretty(&records).expect("a key record is strings and numbers");
    text.push(b'\n');
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let written =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&part, path)
        });
    written.inspect_err(|_| drop(fs::remove_file(&part))).map_err(failed)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use littoral_core::key::Presented;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("littoral-keys-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    fn new(user: &str) -> NewKey {
        NewKey { tenant: "acme".into(), user: user.into(), ..NewKey::default() }
    }

    #[test]
    fn a_created_key_is_found_without_a_restart() {
        let path = folder("create").join("keys.json");
        let keys = Keys::load(&path).unwrap();
        let first = create(&path, new("ada")).unwrap();
        let second = create(&path, new("bob")).unwrap();
        assert_eq!(keys.refresh().unwrap(), Some(2));
        for key in [&first, &second] {
            let presented = Presented::parse(key).unwrap();
            let record: KeyRecord = serde_json::from_slice(&keys.get(presented.id).unwrap()).unwrap();
            assert!(record.matches(&presented, 0));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(first.rsplit('_').next().unwrap()));
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn the_keys_of_a_file_end_with_it_and_not_with_its_replacement() {
        let path = folder("gone").join("keys.json");
        let key = create(&path, new("ada")).unwrap();
        let id = Presented::parse(&key).unwrap().id;
        let keys = Keys::load(&path).unwrap();
        let (began, aside) = (Instant::now(), path.with_extension("old"));
        fs::rename(&path, &aside).unwrap();
        assert_eq!(keys.refresh().unwrap(), None);
        // What is there again in time was never gone.
        assert!(keys.get(id).is_some() || began.elapsed() >= REPLACED_WITHIN);
        fs::rename(&aside, &path).unwrap();
        keys.refresh().unwrap();
        assert!(keys.get(id).is_some());
        fs::rename(&path, &aside).unwrap();
        let began = Instant::now();
        while keys.get(id).is_some() {
            keys.refresh().unwrap();
            assert!(began.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(began.elapsed() >= REPLACED_WITHIN);
        fs::rename(&aside, &path).unwrap();
        assert_eq!(keys.refresh().unwrap(), Some(1));
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_damaged_file_is_refused_at_start_and_keeps_what_was_known_later() {
        let path = folder("damaged").join("keys.json");
        let key = create(&path, new("ada")).unwrap();
        let keys = Keys::load(&path).unwrap();
        fs::write(&path, "[{]").unwrap();
        assert!(keys.refresh().is_err());
        assert!(keys.get(Presented::parse(&key).unwrap().id).is_some());
        assert!(matches!(Keys::load(&path), Err(KeyFileError::Malformed { .. })));
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
