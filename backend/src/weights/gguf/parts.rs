//! A model in several GGUF files, as llama.cpp's `gguf-split` cuts it: `NAME-00001-of-00003.gguf` and so on.

use std::path::{Path, PathBuf};

use super::{Gguf, GgufError};
use crate::weights::FileError;

/// No model is cut into more files.
const MOST: u64 = 9999;

/// The file and, if it is the first of several, the others. The first holds the metadata.
pub fn parts(path: &Path) -> Result<Vec<Gguf>, FileError> {
    let wrong = FileError::gguf(path);
    let first = Gguf::open(path).map_err(FileError::gguf(path))?;
    let count = first.get("split.count").map_or(Some(1), |v| v.as_u64());
    let count = match count {
        Some(0 | 1) => return Ok(vec![first]),
        Some(n) if n <= MOST => n,
        _ => return Err(wrong(value(&first, "split.count", format!("a number up to {MOST}")))),
    };
    if first.get("split.no").and_then(|v| v.as_u64()) != Some(0) {
        return Err(wrong(value(&first, "split.no", "0: name the first of the model's parts".into())));
    }
    let name = |no: u64| sibling(path, no, count);
    if name(1).as_deref() != Some(path) {
        return Err(FileError::damaged(
            path,
            format!("the first of {count} parts, which are found by their names: …-00001-of-{count:05}.gguf"),
        ));
    }
    let mut parts = vec![first];
    for path in (2..=count).filter_map(name) {
        if !path.is_file() {
            return Err(FileError::missing(&path, format!("one of the model's {count} parts is not there")));
        }
        parts.push(Gguf::open(&path).map_err(FileError::gguf(&path))?);
    }
    let there: u64 = parts.iter().map(|part| part.tensors().len() as u64).sum();
    match parts[0].get("split.tensors.count").and_then(|v| v.as_u64()) {
        Some(said) if said != there => {
            Err(wrong(value(&parts[0], "split.tensors.count", format!("{there}, which the parts hold together"))))
        }
        _ => Ok(parts),
    }
}

fn value(file: &Gguf, key: &str, expected: String) -> GgufError {
    match file.get(key) {
        Some(found) => GgufError::Value { key: key.into(), found: found.to_string(), expected },
        None => GgufError::Missing { key: key.into() },
    }
}

/// A model's name without the part's number: `NAME` of `NAME-00001-of-00003`.
pub fn whole_name(stem: &str) -> &str {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let cut = || {
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (name, no) = rest.rsplit_once('-')?;
        (digits(count) && digits(no)).then_some(name)
    };
    cut().unwrap_or(stem)
}

/// The path of a part; None if `path` is not named like one.
fn sibling(path: &Path, no: u64, count: u64) -> Option<PathBuf> {
    let stem = path.file_stem()?.to_str()?;
    let name = Some(whole_name(stem)).filter(|name| *name != stem)?;
    Some(path.with_file_name(format!("{name}-{no:05}-of-{count:05}.gguf")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_after_the_first() {
        let first = Path::new("/m/Model-Q4-00001-of-00012.gguf");
        assert_eq!(sibling(first, 12, 12).as_deref(), Some(Path::new("/m/Model-Q4-00012-of-00012.gguf")));
        assert_eq!(whole_name("Model-Q4-00001-of-00012"), "Model-Q4");
        for plain in ["Model-Q4", "Model-1-of-2", "of-00001", "00001-of-00002"] {
            assert_eq!(whole_name(plain), plain);
            assert_eq!(sibling(Path::new(plain), 1, 2), None);
        }
    }
}
