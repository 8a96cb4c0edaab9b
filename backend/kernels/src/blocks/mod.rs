//! What the bytes of sixteen rows mean. They lie unit by unit side by side (see [`crate::pack`]), so that what unpacks a
//! row unpacks all.

mod floats;
mod k;
mod simple;

use crate::Format;
use crate::simd::{LANES, Lanes};

pub(crate) use floats::{BF16, F8E4M3, F16, F32, Floats};
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

    /// The scales and minima of a block.
    fn groups<L: Lanes>(block: Block, groups: &mut Groups<L>);

    /// Codes `4 * word..` of the `run`th 32 of a block, one to a byte.
    fn codes<L: Lanes>(block: Block, run: usize, word: usize) -> L;
}

/// A block of sixteen rows, packed.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a>(pub &'a [u8]);

impl Block<'_> {
    /// The unit at byte `at` of each row, which has `N` bytes for all sixteen.
    #[inline(always)]
    fn unit<const N: usize>(&self, at: usize) -> &[u8; N] {
        self.0[at * LANES..].first_chunk().expect("a unit of the block")
    }

    /// The word at byte `at`.
    #[inline(always)]
    pub fn word<L: Lanes>(self, at: usize) -> L {
        L::words(self.unit(at))
    }

    /// The two bytes at `at`, in the lower halves.
    #[inline(always)]
    pub fn lower<L: Lanes>(self, at: usize) -> L {
        L::lower(self.unit(at))
    }

    /// The byte at `at`.
    #[inline(always)]
    pub fn byte<L: Lanes>(self, at: usize) -> L {
        L::bytes(self.unit(at))
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
