//! Weights in their own bytes, read as little-endian words: eight elements of a row at a time.

mod k;
mod number;
mod simple;
mod words;

use cubecl::prelude::*;
use littoral_kernels::Format;

/// Elements that are unpacked together.
pub const EIGHT: usize = 8;

/// Four neighbours of a row.
pub type Quad = Vector<f32, Const<4>>;

/// Two quads of a row, [`Packed::apart`] from each other.
#[derive(CubeType, Clone, Copy)]
pub struct Eight {
    pub low: Quad,
    pub high: Quad,
}

/// A row of a matrix, or of a stack of them.
#[derive(CubeType, Clone, Copy)]
pub struct Row {
    pub index: usize,
    pub cols: usize,
}

/// A matrix as kernels are compiled for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packed {
    pub format: Format,
    /// Whether every block, or row of a format without blocks, begins with a word.
    aligned: bool,
    /// Whether no eight reaches beyond what is stored of its row.
    inside: bool,
}

impl Packed {
    pub fn new(format: Format, cols: usize) -> Self {
        let blocks = format.block() > 1;
        let bytes = if blocks { format.block_bytes() } else { cols * format.block_bytes() };
        Self { format, aligned: bytes.is_multiple_of(4), inside: blocks || cols.is_multiple_of(EIGHT) }
    }

    /// Quads from the first of an [`Eight`] to the second: what shares bytes is unpacked together.
    pub fn apart(self) -> usize {
        match self.format {
            Format::F32 | Format::F16 | Format::BF16 | Format::F8E4M3 { .. } | Format::Q8_0 => 1,
            Format::Mxfp4 | Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => 4,
            Format::Q2K | Format::Q3K | Format::Q4K | Format::Q5K => 8,
            Format::Q6K => 16,
        }
    }

    /// Eights of a block, where blocks are made of them.
    fn eights(self) -> usize {
        (self.format.block() / EIGHT).max(1)
    }
}

/// The first quad of an eight. Both are counted from the start of the row.
#[cube]
pub fn first_quad(eight: usize, #[comptime] packed: Packed) -> usize {
    let apart = comptime!(packed.apart());
    // `apart` quads of firsts are followed by as many of seconds.
    eight / apart * comptime!(2 * apart) + eight % apart
}

/// An eight of a row. Elements past the row's end have no meaning.
#[cube]
pub fn unpack(words: &[u32], row: &Row, eight: usize, #[comptime] packed: Packed) -> Eight {
    match comptime!(packed.format) {
        Format::F32 => simple::f32s(words, row, eight, packed),
        Format::F16 | Format::BF16 => simple::halves(words, row, eight, packed),
        Format::F8E4M3 { .. } => simple::f8(words, row, eight, packed),
        Format::Mxfp4 => simple::mxfp4(words, row, eight, packed),
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => simple::nibbles(words, row, eight, packed),
        Format::Q8_0 => simple::q8_0(words, row, eight, packed),
        Format::Q2K => k::q2_k(words, row, eight, packed),
        Format::Q3K => k::q3_k(words, row, eight, packed),
        Format::Q4K | Format::Q5K => k::q45_k(words, row, eight, packed),
        Format::Q6K => k::q6_k(words, row, eight, packed),
    }
}
