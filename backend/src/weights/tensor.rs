//! A tensor of a checkpoint, as it lies in its file.

use std::{borrow::Cow, fmt};

use littoral_kernels::Format;

use super::gguf::TensorType;

/// The elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    F32,
    F16,
    BF16,
    /// OCP FP8, 4 bits of exponent, 3 of fraction; its scales are another tensor.
    F8E4M3,
    /// A power of two, 2^(byte - 127): scales.
    F8E8M0,
    /// Whole numbers, or two FP4 elements a byte.
    I8,
    U8,
    I32,
    I64,
    /// Blocks of one of ggml's formats.
    Quantized(TensorType),
    /// A kind that no model here is computed from, by its name.
    Other(&'static str),
}

impl Kind {
    pub(super) fn of_gguf(kind: TensorType) -> Self {
        match kind {
            TensorType::F32 => Self::F32,
            TensorType::F16 => Self::F16,
            TensorType::BF16 => Self::BF16,
            TensorType(24) => Self::I8,
            TensorType(26) => Self::I32,
            TensorType(27) => Self::I64,
            TensorType(25) => Self::Other("I16"),
            TensorType(28) => Self::Other("F64"),
            blocks => Self::Quantized(blocks),
        }
    }

    /// The format of such elements, where kernels read them as they are.
    pub fn format(self) -> Option<Format> {
        match self {
            Self::F32 => Some(Format::F32),
            Self::F16 => Some(Format::F16),
            Self::BF16 => Some(Format::BF16),
            Self::Quantized(kind) => kind.to_string().parse().ok(),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E8M0 => "F8_E8M0",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::I32 => "I32",
            Self::I64 => "I64",
            Self::Quantized(kind) => return kind.fmt(f),
            Self::Other(name) => name,
        })
    }
}

/// A tensor. The dimensions come outermost first, as in Python: a linear layer's weight is `[outputs, inputs]`, stacked
/// experts are `[experts, outputs, inputs]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<'a> {
    pub name: String,
    pub kind: Kind,
    pub shape: Vec<usize>,
    /// Little-endian, the innermost dimension contiguous. A view of the file, unless two tensors of it had to be joined.
    pub bytes: Cow<'a, [u8]>,
}

/// What the table of a checkpoint says of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    pub name: &'a str,
    pub kind: Kind,
    pub shape: &'a [usize],
    /// Bytes it takes in its file.
    pub bytes: usize,
}

impl Tensor<'_> {
    /// Number of elements as the shape says; of packed FP4 that is half of the model's.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}
