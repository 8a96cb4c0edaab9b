//! Where a model lies: a path, a name of the catalogue, or an id of the hub.

use std::path::{Path, PathBuf};

use littoral_models::{CATALOGUE, Progress, Repository, Shelf, Source, pull, snapshot};

use super::FileError;

/// The path of a model: `model` itself if there is such a file or folder. If not, a model known by its name (on the shelf of
/// the user's cache), a file `owner/name/file.gguf` of the hub, or a repository `owner/name[@revision]` of it; they are
/// pulled into their caches where they are not there yet. `progress` is told bytes done and bytes of all.
pub fn locate(model: &Path, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<PathBuf, FileError> {
    if model.exists() {
        return Ok(model.into());
    }
    let text = model.to_str().unwrap_or_default();
    let pulled = if let Some(repository) = Repository::parse(text) {
        snapshot(&repository, &Told(progress))
    } else if let Ok(source) = Source::parse(text) {
        Shelf::of_user().and_then(|shelf| pull(&source, &shelf, &Told(progress)))
    } else {
        let names: Vec<_> = CATALOGUE.iter().map(|listed| listed.name).collect();
        let what = format!(
            "there is no such file or folder, and it is no name known here ({}) and no owner/name of the hub",
            names.join(", ")
        );
        return Err(FileError::missing(model, what));
    };
    pulled.map_err(|error| FileError::Hub { what: format!("{error:#}") })
}

struct Told<'a>(&'a (dyn Fn(u64, u64) + Sync));

impl Progress for Told<'_> {
    fn bytes(&self, done: u64, total: u64) {
        (self.0)(done, total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_taken_and_what_cannot_be_anywhere_is_refused() -> Result<(), FileError> {
        let here = std::env::temp_dir();
        assert_eq!(locate(&here, &|_, _| {})?, here);
        let error = locate(Path::new("/no/such/model"), &|_, _| {}).unwrap_err().to_string();
        assert!(error.starts_with("/no/such/model: there is no such file or folder"), "{error}");
        Ok(())
    }
}
