//! The JSON files of a model folder.

use std::{fs, io::ErrorKind, path::Path};

use serde_json::{Map, Value};

use super::FileError;

/// No such file of a real model is larger, bytes.
const MOST: u64 = 256 << 20;

/// A small file as a whole; None if it is not there.
pub(crate) fn bytes(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > MOST => Err(FileError::damaged(
            path,
            format!("{} bytes are more than such a file has ({MOST} at most)", meta.len()),
        )),
        Ok(_) => fs::read(path).map(Some).map_err(FileError::io(path)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(FileError::io(path)(e)),
    }
}

/// A file's JSON object; None if the file is not there.
pub(crate) fn object(path: &Path) -> Result<Option<Map<String, Value>>, FileError> {
    let Some(bytes) = bytes(path)? else { return Ok(None) };
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(FileError::damaged(path, "a Git LFS pointer, not the file itself: `git lfs pull` fetches it"));
    }
    match serde_json::from_slice(&bytes) {
        Ok(object) => Ok(Some(object)),
        Err(e) => Err(FileError::damaged(path, format!("no JSON object: {e}"))),
    }
}
