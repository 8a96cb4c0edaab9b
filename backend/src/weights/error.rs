//! What can be wrong with the files of a model.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::gguf::GgufError;

/// Why a model's files are not read. Each names the file or folder.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Gguf { path: PathBuf, source: GgufError },
    /// Not whole, or in contradiction with itself or a file beside it.
    #[error("{}: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    /// A part of the model that has to be there is not.
    #[error("{}: {what}", path.display())]
    Missing { path: PathBuf, what: String },
    /// Whole, but of a kind that is not read here.
    #[error("{}: {what}", path.display())]
    Unsupported { path: PathBuf, what: String },
    /// The hub did not give the model.
    #[error("{what}")]
    Hub { what: String },
}

impl FileError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { path: path.into(), source }
    }

    pub(crate) fn gguf(path: &Path) -> impl FnOnce(GgufError) -> Self {
        |source| Self::Gguf { path: path.into(), source }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), what: what.into() }
    }

    pub(crate) fn missing(path: &Path, what: impl Into<String>) -> Self {
        Self::Missing { path: path.into(), what: what.into() }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.into(), what: what.into() }
    }
}
