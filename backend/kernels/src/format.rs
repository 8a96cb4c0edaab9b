//! How weights lie in memory.

use std::fmt::{self, Display};
use std::str::FromStr;

/// How a row of weights is stored in a file: whole blocks, each with its own scale, row after row without gaps. The names and
/// layouts are those of `ggml-common.h`; numbers are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    F32,
    F16,
    BF16,
    /// Blocks of an f32 scale and `block` bytes of OCP E4M3; a value is scale times element. The last block of a row
    /// may be short: its bytes are filled up with zeros.
    F8E4M3 {
        block: u16,
    },
    /// 32 E2M1 values below one power of two: a byte `e`, then 16 bytes whose low nibbles are elements 0..16. A value
    /// is element times 2^(e-127), as in the OCP MX specification.
    Mxfp4,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl Format {
    /// The formats, with E4M3 in its usual blocks of 128.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F8E4M3 { block: 128 },
        Self::Mxfp4,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Elements of a block.
    pub fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::F8E4M3 { block } => block.into(),
            Self::Mxfp4 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 { block } => 4 + usize::from(block),
            Self::Mxfp4 => 17,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// What of a block goes together when rows are put side by side: bytes at its beginning, if any, then units of one,
    /// two or four bytes, of which the last may be shorter.
    pub(crate) fn units(self) -> (usize, usize) {
        match self {
            Self::F16 | Self::BF16 => (0, 2),
            Self::F8E4M3 { .. } => (4, 1),
            Self::Mxfp4 => (1, 4),
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => (2, 4),
            _ => (0, 4),
        }
    }

    /// Bytes of a row of `cols` elements; none if a row of the format cannot have so many.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let block = self.block();
        let whole = block > 0 && (cols.is_multiple_of(block) || matches!(self, Self::F8E4M3 { .. }));
        if whole { cols.div_ceil(block).checked_mul(self.block_bytes()) } else { None }
    }
}

impl Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 { block } => return write!(f, "F8_E4M3/{block}"),
            Self::Mxfp4 => "MXFP4",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        })
    }
}

/// A name that is no format's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFormat(pub String);

impl Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Format::ALL.iter().map(ToString::to_string).collect();
        write!(f, "'{}' is not a format of weights; there are {}", self.0, names.join(", "))
    }
}

impl std::error::Error for UnknownFormat {}

impl FromStr for Format {
    type Err = UnknownFormat;

    /// Reads what [`Display`] writes, in any case. The block of `F8_E4M3` may be left out.
    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let upper = name.to_ascii_uppercase();
        if let Some(rest) = upper.strip_prefix("F8_E4M3") {
            let block = if rest.is_empty() { Some(128) } else { rest.strip_prefix('/').and_then(|n| n.parse().ok()) };
            let block = block.filter(|block| *block > 0).ok_or_else(|| UnknownFormat(name.to_owned()))?;
            return Ok(Self::F8E4M3 { block });
        }
        let found = Self::ALL.into_iter().find(|format| format.to_string() == upper);
        found.ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
            assert_eq!(format.to_string().to_lowercase().parse(), Ok(format));
        }
        assert_eq!("F8_E4M3".parse(), Ok(Format::F8E4M3 { block: 128 }));
        assert_eq!("f8_e4m3/64".parse(), Ok(Format::F8E4M3 { block: 64 }));
        for wrong in ["", "Q4", "F8_E4M3/0", "F8_E4M3:1", "F8_E4M3/x"] {
            assert_eq!(wrong.parse::<Format>(), Err(UnknownFormat(wrong.to_owned())));
        }
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(Format::Q4_1.row_bytes(576), Some(360));
        assert_eq!(Format::Q4_1.row_bytes(577), None);
        assert_eq!(Format::Q6K.row_bytes(576), None);
        assert_eq!(Format::Q6K.row_bytes(512), Some(420));
        assert_eq!(Format::F16.row_bytes(7), Some(14));
        assert_eq!(Format::F8E4M3 { block: 128 }.row_bytes(130), Some(264));
        assert_eq!(Format::F8E4M3 { block: 0 }.row_bytes(8), None);
        assert_eq!(Format::F32.row_bytes(usize::MAX), None);
    }
}
