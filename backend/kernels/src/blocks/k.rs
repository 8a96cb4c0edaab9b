//! Blocks of 256 weights in groups whose scales are themselves integers below a scale.

use super::{Block, Blocks, Groups};
use crate::simd::Lanes;

/// Bits `from..from + count` of each lane.
#[inline(always)]
fn bits<L: Lanes>(word: L, from: u32, count: u32) -> L {
    word.shr(from).and(L::splat((1 << count) - 1))
}

#[inline(always)]
fn negative<L: Lanes>(value: L) -> L {
    value.xor(L::splat(1 << 31))
}

/// Eight scales and minima of six bits each in twelve bytes, after a scale for each, as Q4_K and Q5_K have them.
#[inline(always)]
fn eight_groups<L: Lanes>(block: Block, groups: &mut Groups<L>) {
    let both = block.word::<L>(0);
    let (d, dmin) = (both.half(), both.shr(16).half());
    let (scales, mins, rest) = (block.word::<L>(4), block.word::<L>(8), block.word::<L>(12));
    for j in 0..4 {
        let byte = j as u32 * 8;
        // The first four are six bits of a byte, whose two upper ones belong to the last four.
        let low = (bits(scales, byte, 6), bits(mins, byte, 6));
        let high = (bits(scales, byte + 6, 2).shl(4), bits(mins, byte + 6, 2).shl(4));
        groups.scale[j] = low.0.float().mul_float(d);
        groups.min[j] = negative(low.1.float().mul_float(dmin));
        groups.scale[j + 4] = bits(rest, byte, 4).or(high.0).float().mul_float(d);
        groups.min[j + 4] = negative(bits(rest, byte + 4, 4).or(high.1).float().mul_float(dmin));
    }
}

pub(crate) struct Q2K;

impl Blocks for Q2K {
    const BLOCK: usize = 256;
    const BYTES: usize = 84;
    const GROUP: usize = 16;
    const OFFSET: u8 = 0;
    const LARGEST: u8 = 3;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn groups<L: Lanes>(block: Block, groups: &mut Groups<L>) {
        let both = block.word::<L>(80);
        let (d, dmin) = (both.half(), both.shr(16).half());
        for four in 0..4 {
            let word = block.word::<L>(four * 4);
            for j in 0..4 {
                let byte = j as u32 * 8;
                groups.scale[four * 4 + j] = bits(word, byte, 4).float().mul_float(d);
                groups.min[four * 4 + j] = negative(bits(word, byte + 4, 4).float().mul_float(dmin));
            }
        }
    }

    #[inline(always)]
    fn codes<L: Lanes>(block: Block, run: usize, word: usize) -> L {
        block.word::<L>(16 + run / 4 * 32 + word * 4).shr(run as u32 % 4 * 2).and(L::splat(0x0303_0303))
    }
}

pub(crate) struct Q3K;

impl Blocks for Q3K {
    const BLOCK: usize = 256;
    const BYTES: usize = 110;
    const GROUP: usize = 16;
    const OFFSET: u8 = 4;
    const LARGEST: u8 = 7;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn groups<L: Lanes>(block: Block, groups: &mut Groups<L>) {
        let d = block.lower::<L>(108).half();
        // Sixteen six-bit scales: four low bits in eight bytes, two high bits in the next four.
        let (low, high) = ([block.word::<L>(96), block.word::<L>(100)], block.word::<L>(104));
        for j in 0..16 {
            let byte = j as u32 % 4 * 8;
            let scale = bits(low[j / 4 % 2], byte + j as u32 / 8 * 4, 4);
            let scale = scale.or(bits(high, byte + j as u32 / 4 * 2, 2).shl(4));
            groups.scale[j] = scale.sub(L::splat(32)).float().mul_float(d);
        }
    }

    #[inline(always)]
    fn codes<L: Lanes>(block: Block, run: usize, word: usize) -> L {
        let low = block.word::<L>(32 + run / 4 * 32 + word * 4).shr(run as u32 % 4 * 2).and(L::splat(0x0303_0303));
        low.or(block.word::<L>(word * 4).shr(run as u32).and(L::splat(0x0101_0101)).shl(2))
    }
}

pub(crate) struct Q4K;

impl Blocks for Q4K {
    const BLOCK: usize = 256;
    const BYTES: usize = 144;
    const GROUP: usize = 32;
    const OFFSET: u8 = 0;
    const LARGEST: u8 = 15;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn groups<L: Lanes>(block: Block, groups: &mut Groups<L>) {
        eight_groups(block, groups);
    }

    #[inline(always)]
    fn codes<L: Lanes>(block: Block, run: usize, word: usize) -> L {
        block.word::<L>(16 + run / 2 * 32 + word * 4).shr(run as u32 % 2 * 4).and(L::splat(0x0f0f_0f0f))
    }
}

pub(crate) struct Q5K;

impl Blocks for Q5K {
    const BLOCK: usize = 256;
    const BYTES: usize = 176;
    const GROUP: usize = 32;
    const OFFSET: u8 = 0;
    const LARGEST: u8 = 31;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn groups<L: Lanes>(block: Block, groups: &mut Groups<L>) {
        eight_groups(block, groups);
    }

    #[inline(always)]
    fn codes<L: Lanes>(block: Block, run: usize, word: usize) -> L {
        let low = block.word::<L>(48 + run / 2 * 32 + word * 4).shr(run as u32 % 2 * 4).and(L::splat(0x0f0f_0f0f));
        low.or(block.word::<L>(16 + word * 4).shr(run as u32).and(L::splat(0x0101_0101)).shl(4))
    }
}

pub(crate) struct Q6K;

impl Blocks for Q6K {
    const BLOCK: usize = 256;
    const BYTES: usize = 210;
    const GROUP: usize = 16;
    const OFFSET: u8 = 32;
    const LARGEST: u8 = 63;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn groups<L: Lanes>(block: Block, groups: &mut Groups<L>) {
        let d = block.lower::<L>(208).half();
        for four in 0..4 {
            let word = block.word::<L>(192 + four * 4);
            for j in 0..4 {
                // A signed byte.
                let scale = bits(word, j as u32 * 8, 8).xor(L::splat(128)).sub(L::splat(128));
                groups.scale[four * 4 + j] = scale.float().mul_float(d);
            }
        }
    }

    #[inline(always)]
    fn codes<L: Lanes>(block: Block, run: usize, word: usize) -> L {
        // Four runs share 64 bytes of nibbles and 32 bytes of upper bits.
        let (side, run) = (run / 4, run % 4);
        let low =
            block.word::<L>(side * 64 + run % 2 * 32 + word * 4).shr(run as u32 / 2 * 4).and(L::splat(0x0f0f_0f0f));
        low.or(block.word::<L>(128 + side * 32 + word * 4).shr(run as u32 * 2).and(L::splat(0x0303_0303)).shl(4))
    }
}
