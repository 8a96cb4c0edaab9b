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

    /// Whether the four words of a quarter of 32 codes are made of sixteen bytes in a row, word by word.
    const QUARTERS: bool = true;

    /// The scales and minima of a block, which begins where `block` does.
    fn groups<L: Lanes>(block: impl Bytes<L>, groups: &mut Groups<L>);

    /// Codes `4 * word..` of the `run`th 32 of a block, one to a byte. If `block` gives sixteen bytes in a row instead
    /// of four, as [`Lanes::quad`] does, and `word` is 0 or 4, so does this.
    fn codes<L: Lanes>(block: impl Bytes<L>, run: usize, word: usize) -> L;
}

/// Bytes of sixteen rows.
pub(crate) trait Bytes<L: Lanes>: Copy {
    /// The word that begins at byte `at`.
    fn word(self, at: usize) -> L;

    /// A word whose lower half begins at byte `at`; behind it there may be nothing.
    fn lower(self, at: usize) -> L;
}

/// Words that are side by side already.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'a> {
    /// Words of the rows, and one more.
    pub words: &'a [[u32; LANES]],
    /// The byte where this begins.
    pub at: usize,
    /// Whether blocks are whole words; `at` is then a multiple of four.
    pub aligned: bool,
}

impl<L: Lanes> Bytes<L> for Raw<'_> {
    #[inline(always)]
    fn word(self, at: usize) -> L {
        let (word, bits) = ((self.at + at) / 4, (self.at + at) as u32 % 4 * 8);
        if self.aligned && at.is_multiple_of(4) {
            return L::load(&self.words[word]);
        }
        L::load(&self.words[word]).shr(bits).or(L::load(&self.words[word + 1]).shl(32 - bits))
    }

    #[inline(always)]
    fn lower(self, at: usize) -> L {
        self.word(at)
    }
}

/// The scales and minima of a block, as many as it has.
pub(crate) struct Groups<L> {
    pub scale: [L; 16],
    pub min: [L; 16],
}

impl<L: Lanes> Groups<L> {
    #[inline(always)]
    pub fn new() -> Self {
        Self { scale: [L::splat(0); 16], min: [L::splat(0); 16] }
    }
}

/// The constants of a [`Blocks`] as values.
#[derive(Clone, Copy)]
pub(crate) struct Codes {
    pub group: usize,
    pub offset: u8,
    pub largest: u8,
    pub minimum: bool,
    pub quarters: bool,
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
                Codes {
                    group: F::GROUP,
                    offset: F::OFFSET,
                    largest: F::LARGEST,
                    minimum: F::MINIMUM,
                    quarters: F::QUARTERS,
                }
            }
        }
        self.with_blocks(Describe)
    }
}
