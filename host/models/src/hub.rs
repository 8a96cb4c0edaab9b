//! GGUF files of the hub, through the hub's own client: it resumes what was cut off, and checks lengths.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context, Result, bail};
use hf_hub::api::{Progress as HubProgress, sync::ApiBuilder};

use crate::{Progress, Shelf, folder};

/// The file, pulled if it is not on the shelf yet. `HF_ENDPOINT` and `HF_TOKEN` are honoured.
pub fn ensure(repository: &str, file: &str, shelf: &Shelf, progress: &(dyn Progress + Sync)) -> Result<PathBuf> {
    let name = file.rsplit('/').next().unwrap_or(file);
    let path = shelf.path(name);
    if path.is_file() {
        return Ok(path);
    }
    // What was cut off stays here and goes on at the next try.
    let parts = shelf.dir().join(".parts");
    std::fs::create_dir_all(&parts).with_context(|| format!("cannot create {}", parts.display()))?;
    let api = ApiBuilder::from_env().with_cache_dir(parts.clone()).with_progress(false).build()?;
    let bar = Bar { progress, done: AtomicU64::new(0), total: AtomicU64::new(0) };
    let got = api.model(repository.to_string()).download_with_progress(file, &bar).with_context(|| {
        format!("{repository}/{file} could not be pulled; can the hub be reached from here, and is the name right? What has arrived is kept: the same command goes on")
    })?;
    let blob = std::fs::canonicalize(&got)?;
    if let Some(why) = wrong(&blob)? {
        std::fs::remove_file(&blob)?;
        bail!("{repository}/{file} {why}; it was deleted, try again");
    }
    let draft = folder::Draft::new(shelf.dir())?;
    let inside = draft.path().join(name);
    std::fs::rename(&blob, &inside)?;
    File::open(&inside)?.sync_all()?;
    draft.publish(&inside, &path)?;
    std::fs::remove_dir_all(parts.join(format!("models--{}", repository.replace('/', "--"))))?;
    Ok(path)
}

/// What is wrong with a file that has arrived. The hub names a large file by its SHA-256.
fn wrong(blob: &Path) -> Result<Option<&'static str>> {
    let mut magic = [0; 4];
    if File::open(blob)?.read_exact(&mut magic).is_err() || &magic != b"GGUF" {
        return Ok(Some("is not a GGUF file"));
    }
    let name = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_sum = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    Ok((is_sum && folder::sha256(blob)? != name).then_some("arrived with another SHA-256 than the hub names"))
}

struct Bar<'a> {
    progress: &'a (dyn Progress + Sync),
    done: AtomicU64,
    total: AtomicU64,
}

impl HubProgress for &Bar<'_> {
    fn init(&mut self, size: usize, _: &str) {
        self.total.store(size as u64, Relaxed);
    }

    fn update(&mut self, size: usize) {
        let done = self.done.fetch_add(size as u64, Relaxed) + size as u64;
        self.progress.bytes(done, self.total.load(Relaxed));
    }

    fn finish(&mut self) {}
}
