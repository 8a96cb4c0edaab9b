//! Metadata values.

use std::fmt;

use super::{GgufError, cursor::Cursor};

/// Arrays of arrays may be this deep.
const MAX_NESTING: usize = 4;
/// No string that is a value by itself is longer, bytes. (A chat template has some ten thousand.)
const MAX_STRING: usize = 16 << 20;

/// The types of GGUF values, in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn read(at: &mut Cursor, key: &str) -> Result<Self, GgufError> {
        use Kind::*;
        const ALL: [Kind; 13] = [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64];
        let found = at.u32(key)?;
        ALL.get(found as usize).copied().ok_or_else(|| GgufError::ValueType { key: key.into(), found })
    }

    /// Bytes of the smallest value of this type.
    fn smallest(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

/// Where the elements of an array lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrayRange {
    pub(super) kind: Kind,
    pub(super) count: usize,
    pub(super) offset: usize,
}

/// A metadata value. Integers of all widths are one kind, so are floats.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Array(ArrayRange),
}

impl Value {
    pub(super) fn read(at: &mut Cursor, key: &str) -> Result<Self, GgufError> {
        let kind = Kind::read(at, key)?;
        Self::of(kind, at, key)
    }

    fn of(kind: Kind, at: &mut Cursor, key: &str) -> Result<Self, GgufError> {
        Ok(match kind {
            Kind::U8 => Self::Unsigned(at.u8(key)?.into()),
            Kind::I8 => Self::Signed(at.u8(key)?.cast_signed().into()),
            Kind::U16 => Self::Unsigned(at.u16(key)?.into()),
            Kind::I16 => Self::Signed(at.u16(key)?.cast_signed().into()),
            Kind::U32 => Self::Unsigned(at.u32(key)?.into()),
            Kind::I32 => Self::Signed(at.u32(key)?.cast_signed().into()),
            Kind::U64 => Self::Unsigned(at.u64(key)?),
            Kind::I64 => Self::Signed(at.u64(key)?.cast_signed()),
            Kind::F32 => Self::Float(f32::from_bits(at.u32(key)?).into()),
            Kind::F64 => Self::Float(f64::from_bits(at.u64(key)?)),
            Kind::Bool => match at.u8(key)? {
                0 => Self::Bool(false),
                1 => Self::Bool(true),
                other => {
                    return Err(GgufError::Value {
                        key: key.into(),
                        found: other.to_string(),
                        expected: "a truth value, 0 or 1".into(),
                    });
                }
            },
            Kind::String => {
                let text = at.string(key)?;
                if text.len() > MAX_STRING {
                    return Err(GgufError::Value {
                        key: key.into(),
                        found: format!("a string of {} bytes", text.len()),
                        expected: format!("{MAX_STRING} at most"),
                    });
                }
                Self::String(text.to_owned())
            }
            Kind::Array => Self::Array(skip_array(at, key, 1)?),
        })
    }

    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(x) => Some(*x),
            Self::Unsigned(n) => Some(*n as f64),
            Self::Signed(n) => Some(*n as f64),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(s) => Some(s),
            _ => None,
        }
    }

    /// The array, if its elements are of this kind.
    pub(super) fn as_array(&self, kind: Kind) -> Option<ArrayRange> {
        match self {
            Self::Array(range) if range.kind == kind => Some(*range),
            _ => None,
        }
    }
}

/// Checks an array element by element and remembers where it lies.
fn skip_array(at: &mut Cursor, key: &str, depth: usize) -> Result<ArrayRange, GgufError> {
    if depth > MAX_NESTING {
        return Err(GgufError::Nesting { key: key.into(), most: MAX_NESTING });
    }
    let kind = Kind::read(at, key)?;
    let count = at.u64(key)?;
    at.check_count(&format!("elements of '{key}'"), count, kind.smallest())?;
    let offset = at.position();
    match kind {
        Kind::String => (0..count).try_for_each(|_| at.string(key).map(drop))?,
        Kind::Array => (0..count).try_for_each(|_| skip_array(at, key, depth + 1).map(drop))?,
        fixed => drop(at.take(count * fixed.smallest(), key)?),
    }
    Ok(ArrayRange { kind, count: count as usize, offset })
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Unsigned(n) => write!(f, "{n}"),
            Self::Signed(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::String(s) => write!(f, "'{}'", s.chars().take(80).collect::<String>()),
            Self::Array(a) => write!(f, "an array of {} {:?}", a.count, a.kind),
        }
    }
}
