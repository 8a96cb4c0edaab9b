//! What a block of integer weights means: codes, and for each group of them a scale and a minimum.

mod k;
mod simple;

use crate::Format;
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
    /// Whether there are minima; if not, `unpack` leaves them alone.
    const MINIMUM: bool;

    /// Unpacks one block of `BYTES` bytes to `BLOCK` codes and `BLOCK / GROUP` scales and minima.
    fn unpack<H: Half>(block: &[u8], codes: &mut [u8], groups: &mut Groups);
}

/// The constants of a [`Blocks`] as values.
#[derive(Clone, Copy)]
pub(crate) struct Codes {
    pub group: usize,
    pub offset: u8,
    pub largest: u8,
    pub minimum: bool,
}

impl Codes {
    const fn of<F: Blocks>() -> Self {
        Self { group: F::GROUP, offset: F::OFFSET, largest: F::LARGEST, minimum: F::MINIMUM }
    }
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
                const { Codes::of::<F>() }
            }
        }
        self.with_blocks(Describe)
    }
}

/// The scales and minima of a block, as many as it has.
#[derive(Default)]
pub(crate) struct Groups {
    pub scale: [f32; 16],
    pub min: [f32; 16],
}

/// How an instruction set reads binary16; the result is the same.
pub(crate) trait Half {
    fn f16(bits: u16) -> f32;
}

/// By shifts and a multiplication.
pub(crate) struct Plain;

impl Half for Plain {
    #[inline(always)]
    fn f16(bits: u16) -> f32 {
        crate::number::f16(bits)
    }
}

/// The binary16 at byte `at`.
#[inline(always)]
fn half<H: Half>(block: &[u8], at: usize) -> f32 {
    H::f16(u16::from_le_bytes([block[at], block[at + 1]]))
}
