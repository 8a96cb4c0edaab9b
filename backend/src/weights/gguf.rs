//! The GGUF container (versions 2 and 3, little-endian): typed metadata, and tensors that lie in a mapped file.
//!
//! The file is not trusted: every count, length and offset is checked against the bytes that are there before anything
//! is allocated or read. Long arrays (a vocabulary) are checked once and decoded where they are asked for.

mod config;
mod cursor;
mod error;
mod latent;
mod names;
mod parts;
mod tensor;
#[cfg(test)]
pub(super) mod tests;
mod value;

use std::{collections::HashMap, ops::Range, path::Path};

use super::{fingerprint::Fingerprint, mapped::Mapped};

pub(super) use config::config;
use cursor::Cursor;
pub use error::GgufError;
pub(super) use latent::{join, joined};
pub(super) use names::hugging_face;
pub(super) use parts::{parts, whole_name};
pub use tensor::{TensorInfo, TensorType};
pub use value::{Kind, Value};

const MAGIC: &[u8; 4] = b"GGUF";
/// Tensor data begins and tensors lie at multiples of this, unless `general.alignment` says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Bytes of the smallest possible metadata entry (key length, one byte of key, type, value) and tensor entry.
const SMALLEST_ENTRY: u64 = 8 + 1 + 4 + 1;
const SMALLEST_TENSOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// Entries that room is made for before they are read: a large file may hold a wrong count that would fit into it.
const MOST_AHEAD: u64 = 4096;

/// An open GGUF file whose header has been read and checked.
pub struct Gguf {
    bytes: Mapped,
    metadata: HashMap<String, Value>,
    tensors: Vec<TensorInfo>,
    header: Range<usize>,
}

impl Gguf {
    /// Maps the file and reads its header.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::parse(Mapped::open(path)?)
    }

    pub(super) fn parse(bytes: Mapped) -> Result<Self, GgufError> {
        let mut at = Cursor::new(&bytes);
        let magic = at.take(4, "the magic number")?;
        if magic != MAGIC {
            return Err(GgufError::Magic { found: [magic[0], magic[1], magic[2], magic[3]] });
        }
        match at.u32("the version")? {
            2 | 3 => {}
            found => return Err(GgufError::Version { found }),
        }
        let tensor_count = at.u64("the number of tensors")?;
        let entry_count = at.u64("the number of metadata entries")?;
        at.check_count("metadata entries", entry_count, SMALLEST_ENTRY)?;
        at.check_count("tensors", tensor_count, SMALLEST_TENSOR)?;

        let mut metadata = HashMap::with_capacity(entry_count.min(MOST_AHEAD) as usize);
        for _ in 0..entry_count {
            let key = at.string("a metadata key")?.to_owned();
            let value = Value::read(&mut at, &key)?;
            if metadata.contains_key(&key) {
                return Err(GgufError::Twice { name: key });
            }
            metadata.insert(key, value);
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(value) => {
                value.as_u64().filter(|a| a.is_power_of_two() && *a <= 1 << 20).ok_or_else(|| GgufError::Value {
                    key: "general.alignment".into(),
                    found: value.to_string(),
                    expected: "a power of two up to 1 MiB".into(),
                })?
            }
        };
        let mut tensors = Vec::with_capacity(tensor_count.min(MOST_AHEAD) as usize);
        for _ in 0..tensor_count {
            tensors.push(TensorInfo::read(&mut at, alignment)?);
        }
        let end = at.position();
        let data = (end as u64).next_multiple_of(alignment);
        tensor::place(&mut tensors, data, bytes.len() as u64)?;
        Ok(Self { bytes, metadata, tensors, header: 0..end })
    }

    /// The value of a key, if the file has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    fn wanted<T>(&self, key: &str, kind: &'static str, read: impl Fn(&Value) -> Option<T>) -> Result<T, GgufError> {
        let value = self.get(key).ok_or_else(|| GgufError::Missing { key: key.into() })?;
        read(value).ok_or_else(|| GgufError::Value { key: key.into(), found: value.to_string(), expected: kind.into() })
    }

    /// A whole number that must be there.
    pub fn u64(&self, key: &str) -> Result<u64, GgufError> {
        self.wanted(key, "a whole number", Value::as_u64)
    }

    /// A number that must be there.
    pub fn f64(&self, key: &str) -> Result<f64, GgufError> {
        self.wanted(key, "a number", Value::as_f64)
    }

    /// A string that must be there.
    pub fn str(&self, key: &str) -> Result<&str, GgufError> {
        let value = self.get(key).ok_or_else(|| GgufError::Missing { key: key.into() })?;
        value.as_str().ok_or_else(|| GgufError::Value {
            key: key.into(),
            found: value.to_string(),
            expected: "a string".into(),
        })
    }

    /// An array of strings that must be there.
    pub fn strings(&self, key: &str) -> Result<Vec<&str>, GgufError> {
        let range = self.wanted(key, "an array of strings", |v| v.as_array(Kind::String))?;
        let mut at = Cursor::at(&self.bytes, range.offset);
        (0..range.count).map(|_| at.string(key)).collect()
    }

    /// An array of 32-bit integers that must be there.
    pub fn i32s(&self, key: &str) -> Result<Vec<i32>, GgufError> {
        let range = self
            .wanted(key, "an array of 32-bit integers", |v| v.as_array(Kind::I32).or_else(|| v.as_array(Kind::U32)))?;
        let mut at = Cursor::at(&self.bytes, range.offset);
        (0..range.count).map(|_| Ok(at.u32(key)?.cast_signed())).collect()
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The bytes of one of this file's tensors.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.bytes[tensor.range.clone()]
    }

    /// Names what this file computes: SHA-256 over the whole header (metadata, vocabulary, template, tensor table) and
    /// over evenly spread pieces of every tensor, in hex. It reads a few MiB, however large the file is.
    pub fn fingerprint(&self) -> String {
        let mut print = Fingerprint::new(self.tensors.len());
        print.add(&self.bytes[self.header.clone()]);
        self.tensors.iter().for_each(|tensor| print.add_pieces(self.data(tensor)));
        print.hex()
    }

    /// A tensor's pages are not needed any more.
    pub fn forget(&self, tensor: &TensorInfo) {
        self.bytes.forget(tensor.range.clone());
    }
}
