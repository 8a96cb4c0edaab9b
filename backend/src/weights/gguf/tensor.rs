//! The tensor table.

use std::{fmt, ops::Range};

use super::{GgufError, cursor::Cursor};

const MAX_DIMS: u32 = 4;

/// The element type of a tensor, by its number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TensorType(pub u32);

impl TensorType {
    pub const F32: Self = Self(0);
    pub const F16: Self = Self(1);
    pub const Q4_0: Self = Self(2);
    pub const Q4_1: Self = Self(3);
    pub const Q8_0: Self = Self(8);
    pub const BF16: Self = Self(30);

    /// Name, elements per block, bytes per block, for every type of ggml that may stand in a file.
    fn shape(self) -> Option<(&'static str, u64, u64)> {
        Some(match self.0 {
            0 => ("F32", 1, 4),
            1 => ("F16", 1, 2),
            2 => ("Q4_0", 32, 18),
            3 => ("Q4_1", 32, 20),
            6 => ("Q5_0", 32, 22),
            7 => ("Q5_1", 32, 24),
            8 => ("Q8_0", 32, 34),
            9 => ("Q8_1", 32, 36),
            10 => ("Q2_K", 256, 84),
            11 => ("Q3_K", 256, 110),
            12 => ("Q4_K", 256, 144),
            13 => ("Q5_K", 256, 176),
            14 => ("Q6_K", 256, 210),
            15 => ("Q8_K", 256, 292),
            16 => ("IQ2_XXS", 256, 66),
            17 => ("IQ2_XS", 256, 74),
            18 => ("IQ3_XXS", 256, 98),
            19 => ("IQ1_S", 256, 50),
            20 => ("IQ4_NL", 32, 18),
            21 => ("IQ3_S", 256, 110),
            22 => ("IQ2_S", 256, 82),
            23 => ("IQ4_XS", 256, 136),
            24 => ("I8", 1, 1),
            25 => ("I16", 1, 2),
            26 => ("I32", 1, 4),
            27 => ("I64", 1, 8),
            28 => ("F64", 1, 8),
            29 => ("IQ1_M", 256, 56),
            30 => ("BF16", 1, 2),
            34 => ("TQ1_0", 256, 54),
            35 => ("TQ2_0", 256, 66),
            39 => ("MXFP4", 32, 17),
            _ => return None,
        })
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.shape() {
            Some((name, ..)) => f.write_str(name),
            None => write!(f, "type {}", self.0),
        }
    }
}

/// A tensor of the file. `dims` are as the file has them: the innermost (contiguous) first, so that a linear layer's
/// weight is `[in, out]` with rows of `in` elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub dims: Vec<u64>,
    pub kind: TensorType,
    /// Its bytes in the file.
    pub(super) range: Range<usize>,
    /// Offset from the beginning of the tensor data, and length, as the table says.
    offset: u64,
    bytes: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    pub(super) fn read(at: &mut Cursor, alignment: u64) -> Result<Self, GgufError> {
        let name = at.string("a tensor's name")?.to_owned();
        let wrong = |what: String| GgufError::Tensor { name: name.clone(), what };
        let rank = at.u32("a tensor's rank")?;
        if !(1..=MAX_DIMS).contains(&rank) {
            return Err(wrong(format!("{rank} dimensions; expected 1 to {MAX_DIMS}")));
        }
        let dims = (0..rank).map(|_| at.u64("a tensor's dimensions")).collect::<Result<Vec<_>, _>>()?;
        let kind = TensorType(at.u32("a tensor's type")?);
        let offset = at.u64("a tensor's offset")?;
        let Some((_, block, block_bytes)) = kind.shape() else {
            return Err(wrong(format!("unknown element {kind}")));
        };
        let elements = dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| *n > 0);
        let Some(elements) = elements else {
            return Err(wrong(format!("impossible dimensions {dims:?}")));
        };
        if !dims[0].is_multiple_of(block) {
            return Err(wrong(format!("rows of {} elements; {kind} needs a multiple of {block}", dims[0])));
        }
        let Some(bytes) = (elements / block).checked_mul(block_bytes) else {
            return Err(wrong(format!("impossible dimensions {dims:?}")));
        };
        if !offset.is_multiple_of(alignment) {
            return Err(wrong(format!("offset {offset} is not a multiple of the alignment {alignment}")));
        }
        Ok(Self { name, dims, kind, range: 0..0, offset, bytes })
    }
}

/// Gives every tensor its range in the file, whose tensor data begin at `data` and end at `end`; refuses tensors that
/// reach past the end, overlap or share a name.
pub(super) fn place(tensors: &mut [TensorInfo], data: u64, end: u64) -> Result<(), GgufError> {
    for tensor in tensors.iter_mut() {
        let start = data.checked_add(tensor.offset);
        match start.and_then(|s| Some((s, s.checked_add(tensor.bytes)?))) {
            Some((start, stop)) if stop <= end => tensor.range = start as usize..stop as usize,
            _ => {
                let what = format!(
                    "{} bytes at {} of the tensor data, which hold {}; the file is cut short or damaged, fetch it again",
                    tensor.bytes,
                    tensor.offset,
                    end.saturating_sub(data)
                );
                return Err(GgufError::Tensor { name: tensor.name.clone(), what });
            }
        }
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| t.range.start);
    if let Some(pair) = order.windows(2).find(|pair| pair[1].range.start < pair[0].range.end) {
        let what = format!("its bytes overlap those of '{}'", pair[0].name);
        return Err(GgufError::Tensor { name: pair[1].name.clone(), what });
    }
    order.sort_by_key(|t| &t.name);
    match order.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(GgufError::Twice { name: pair[0].name.clone() }),
        None => Ok(()),
    }
}
