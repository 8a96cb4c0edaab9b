//! What the bytes of sixteen rows mean. They come as words, one of each row side by side, so that what unpacks a row
//! unpacks all.

mod floats;
mod k;
mod simple;

use crate::Format;
use crate::simd::{LANES, Lanes};

pub(crate) use floats::{BF16, F8E4M3, F16, F32, Floats, Source};
use k::{Q2K, Q3K, Q4K, Q5K, Q6K};
use simple::{Mxfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// A format whose values are `scale * (code - OFFSET) + min`, with one scale and minimum per `GROUP` elements.
pub(crate) trait Blocks {
    /// Elements of a block: 32 or 256.
    const BLOCK: usize;
    const BYTES: usize;
    /// Elements that share a scale: 16 or 32.
    const GROUP: usize;
    /// What a code counts from.
    const OFFSET: u8;
    /// The largest code.
    const LARGEST: u8;
    /// Whether there are minima.
    const MINIMUM: bool;

    /// Unpacks the block at the begin of `raw`.
    fn unpack<L: Lanes>(raw: Raw, out: &mut Unpacked);
}

/// Bytes of sixteen rows from some byte on.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'a> {
    /// Words of the rows, and one more.
    pub words: &'a [[u32; LANES]],
    /// The byte where this begins.
    pub at: usize,
    /// Whether blocks are whole words; `at` is then a multiple of four.
    pub aligned: bool,
}

impl<'a> Raw<'a> {
    /// The word that begins at byte `at`.
    #[inline(always)]
    fn word<L: Lanes>(&self, at: usize) -> L {
        let (word, bits) = ((self.at + at) / 4, (self.at + at) as u32 % 4 * 8);
        if self.aligned && at.is_multiple_of(4) {
            return L::load(&self.words[word]);
        }
        L::load(&self.words[word]).shr(bits).or(L::load(&self.words[word + 1]).shl(32 - bits))
    }
}

/// A block's codes, scales and minima; no minima where the format has none.
pub(crate) struct Unpacked<'a> {
    /// Four codes of each lane: `[BLOCK / 4]`.
    pub codes: &'a mut [[u32; LANES]],
    /// `[BLOCK / GROUP]`
    pub scale: &'a mut [[f32; LANES]],
    pub min: &'a mut [[f32; LANES]],
}

impl Unpacked<'_> {
    #[inline(always)]
    fn codes<L: Lanes>(&mut self, word: usize, codes: L) {
        codes.store(&mut self.codes[word]);
    }

    #[inline(always)]
    fn scale<L: Lanes>(&mut self, group: usize, scale: L) {
        scale.store(bytemuck::cast_mut(&mut self.scale[group]));
    }

    #[inline(always)]
    fn min<L: Lanes>(&mut self, group: usize, min: L) {
        min.store(bytemuck::cast_mut(&mut self.min[group]));
    }
}

/// The constants of a [`Blocks`] as values.
#[derive(Clone, Copy)]
pub(crate) struct Codes {
    pub group: usize,
    pub offset: u8,
    pub largest: u8,
    pub minimum: bool,
}

/// Code that is generic over the formats of integers.
pub(crate) trait ForBlocks {
    type Out;

    fn run<F: Blocks>(self) -> Self::Out;
}

impl Format {
    /// Runs `code` for this format; none if it is not one of integers.
    pub(crate) fn with_blocks<C: ForBlocks>(self, code: C) -> Option<C::Out> {
        Some(match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3 { .. } => return None,
            Self::Mxfp4 => code.run::<Mxfp4>(),
            Self::Q4_0 => code.run::<Q4_0>(),
            Self::Q4_1 => code.run::<Q4_1>(),
            Self::Q5_0 => code.run::<Q5_0>(),
            Self::Q5_1 => code.run::<Q5_1>(),
            Self::Q8_0 => code.run::<Q8_0>(),
            Self::Q2K => code.run::<Q2K>(),
            Self::Q3K => code.run::<Q3K>(),
            Self::Q4K => code.run::<Q4K>(),
            Self::Q5K => code.run::<Q5K>(),
            Self::Q6K => code.run::<Q6K>(),
        })
    }

    /// What the codes of this format are; none if it is not one of integers.
    pub(crate) fn codes(self) -> Option<Codes> {
        struct Describe;
        impl ForBlocks for Describe {
            type Out = Codes;

            fn run<F: Blocks>(self) -> Codes {
                Codes { group: F::GROUP, offset: F::OFFSET, largest: F::LARGEST, minimum: F::MINIMUM }
            }
        }
        self.with_blocks(Describe)
    }
}
