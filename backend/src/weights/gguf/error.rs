//! What can be wrong with a GGUF file.

/// Why a file is not read as a GGUF model. The caller adds the file's name.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("not a GGUF file: it begins with {found:?}, not with the letters GGUF")]
    Magic { found: [u8; 4] },
    #[error("GGUF version {found} is not read here: 2 and 3 are (a very large number means a big-endian file)")]
    Version { found: u32 },
    #[error("cut short: reading {what} at byte {at} needs {need} bytes and {left} are left; fetch the file again")]
    Truncated { what: String, at: u64, need: u64, left: u64 },
    #[error("{found} {what} cannot be: the {left} bytes that follow hold {most} at most; fetch the file again")]
    Count { what: String, found: u64, most: u64, left: u64 },
    #[error("{what} at byte {at} is not UTF-8")]
    Utf8 { what: String, at: u64 },
    #[error("'{key}' has the unknown value type {found}; 0 to 12 are known")]
    ValueType { key: String, found: u32 },
    #[error("'{key}' nests arrays deeper than {most} levels")]
    Nesting { key: String, most: usize },
    #[error("the name '{name}' is used twice")]
    Twice { name: String },
    #[error("'{key}' is missing")]
    Missing { key: String },
    #[error("'{key}' is {found}; expected {expected}")]
    Value { key: String, found: String, expected: String },
    #[error("tensor '{name}' is missing")]
    MissingTensor { name: String },
    #[error("tensor '{name}': {what}")]
    Tensor { name: String, what: String },
}
