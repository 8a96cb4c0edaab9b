//! What can go wrong when a model is loaded or run.

use std::path::{Path, PathBuf};

use crate::weights::{FileError, gguf::GgufError};

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The files cannot be read, are not whole, or contradict themselves.
    #[error(transparent)]
    File(#[from] FileError),
    /// Whole files whose architecture, tokenizer or tensors this node does not run.
    #[error("{}: {what}", path.display())]
    Unsupported { path: PathBuf, what: String },
    /// The device is not there, not in this build, or has no room for the model.
    #[error("{0}")]
    Device(String),
}

/// A problem with a model, before its files' name is added.
#[derive(Debug)]
pub enum Problem {
    File(FileError),
    Gguf(GgufError),
    Unsupported(String),
    Device(String),
}

impl Problem {
    pub fn at(self, path: &Path) -> LoadError {
        match self {
            Self::File(source) => LoadError::File(source),
            Self::Gguf(source) => LoadError::File(FileError::Gguf { path: path.into(), source }),
            Self::Unsupported(what) => LoadError::Unsupported { path: path.into(), what },
            Self::Device(what) => LoadError::Device(what),
        }
    }
}

impl From<FileError> for Problem {
    fn from(source: FileError) -> Self {
        Self::File(source)
    }
}

impl From<GgufError> for Problem {
    fn from(source: GgufError) -> Self {
        Self::Gguf(source)
    }
}

/// Why a step failed. The sequences of the step cannot go on; after [`StepError::Device`] the model cannot either.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The segments contradict themselves or the model: a position outside the block table, an id outside the vocabulary.
    #[error("step refused: {0}")]
    Input(String),
    #[error("the model computed logits that are not numbers (segment {segment})")]
    NotFinite { segment: usize },
    #[error("the device failed: {0}")]
    Device(String),
}
