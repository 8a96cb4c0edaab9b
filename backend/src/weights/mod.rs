//! A model's files: what is in them, checked, by one set of names.
//!
//! [`Checkpoint`] opens a folder in the layout of a Hugging Face repository (`config.json`, safetensors) or GGUF files.
//! Nothing in a file is trusted: counts, lengths, offsets and names are checked before anything is allocated or read.

mod checkpoint;
mod error;
mod fingerprint;
mod folder;
mod generation;
pub mod gguf;
mod hub;
mod json;
mod mapped;
mod safetensors;
mod tensor;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use checkpoint::Checkpoint;
pub(crate) use checkpoint::TextSource;
pub use error::FileError;
pub(crate) use folder::{CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG, TextFiles};
pub use generation::Generation;
pub use hub::locate;
pub use tensor::{Kind, Tensor, TensorInfo};

/// The name of the model at a path: that of the folder (of a hub's snapshot, the repository's) or of the file without its
/// ending and the number of its part.
pub fn name(path: &Path) -> String {
    // `.` and `..` have no name; what has one may be a link, whose own name counts.
    let path = match path.file_name() {
        Some(_) => path.to_owned(),
        None => std::fs::canonicalize(path).unwrap_or_default(),
    };
    let part = |path: Option<&Path>| path.and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
    if path.is_dir() {
        let above = path.parent().filter(|p| p.ends_with("snapshots"));
        let repository = part(above.and_then(Path::parent)).unwrap_or_default();
        if let Some((_, name)) = repository.strip_prefix("models--").and_then(|r| r.rsplit_once("--")) {
            return name.to_owned();
        }
        return part(Some(&path)).unwrap_or_default();
    }
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    gguf::whole_name(&stem).to_owned()
}
