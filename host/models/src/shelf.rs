//! The folder of the model files.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};

use crate::folder;

/// `$XDG_CACHE_HOME/littoral/models`, or a folder of one's own.
pub struct Shelf {
    dir: PathBuf,
}

/// A model file on the shelf.
pub struct Kept {
    /// The file's name.
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
    pub modified: Option<SystemTime>,
}

impl Shelf {
    /// The user's own.
    pub fn of_user() -> Result<Self> {
        Ok(Self::at(folder::cache()?.join("models")))
    }

    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a file of this name is or will be.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// What is there, by name. A shelf that was never used is empty.
    pub fn list(&self) -> Result<Vec<Kept>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.dir.display())),
        };
        let kept = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok().filter(|name| name.ends_with(".gguf"))?;
            // Follows a link: what counts is the file behind it.
            let meta = fs::metadata(entry.path()).ok().filter(fs::Metadata::is_file)?;
            Some(Kept { name, path: entry.path(), bytes: meta.len(), modified: meta.modified().ok() })
        };
        let mut list: Vec<Kept> = entries.flatten().filter_map(kept).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// Removes a file by its name, and gives the bytes that came free.
    pub fn remove(&self, name: &str) -> Result<u64> {
        let list = self.list()?;
        let Some(kept) = list.iter().find(|kept| kept.name == name || kept.name.strip_suffix(".gguf") == Some(name))
        else {
            let names: Vec<_> = list.iter().map(|kept| kept.name.as_str()).collect();
            bail!(
                "no model '{name}' in {}; there is: {}",
                self.dir.display(),
                if names.is_empty() { "nothing".into() } else { names.join(", ") }
            )
        };
        fs::remove_file(&kept.path).with_context(|| format!("cannot remove {}", kept.path.display()))?;
        Ok(kept.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_listed_and_removed_by_name() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("littoral-shelf-{}", std::process::id()));
        let shelf = Shelf::at(&dir);
        assert!(shelf.list()?.is_empty());
        fs::create_dir_all(&dir)?;
        fs::write(shelf.path("a.gguf"), "GGUF")?;
        fs::write(shelf.path("notes.txt"), "not a model")?;
        let list = shelf.list()?;
        assert_eq!((list.len(), list[0].name.as_str(), list[0].bytes), (1, "a.gguf", 4));
        let error = shelf.remove("../notes.txt").unwrap_err().to_string();
        assert!(error.contains("a.gguf"), "{error}");
        assert_eq!(shelf.remove("a")?, 4);
        assert!(shelf.list()?.is_empty());
        fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
