//! Blocks of 32 weights.

use super::{Block, Blocks, Groups};
use crate::simd::Lanes;

/// Word `word` of the codes in the sixteen bytes at `at`, whose low nibbles are elements 0..16 and whose high ones are
/// 16..32.
#[inline(always)]
fn nibbles<L: Lanes>(block: Block, at: usize, word: usize) -> L {
    block.word::<L>(at + word % 4 * 4).shr(word as u32 / 4 * 4).and(L::splat(0x0f0f_0f0f))
}

/// The fifth bits of word `word`, from the bits of a word.
#[inline(always)]
fn fifth_bits<L: Lanes>(bits: L, word: usize) -> L {
    // Four bits, each to the lowest place of a byte.
    let four = bits.shr(word as u32 * 4).and(L::splat(15));
    let spread = four.or(four.shl(7)).or(four.shl(14).or(four.shl(21)));
    spread.and(L::splat(0x0101_0101)).shl(4)
}

/// A scale and a minimum.
#[inline(always)]
fn both<L: Lanes>(word: L, groups: &mut Groups<L>) {
    groups.scale[0] = word.half();
    groups.min[0] = word.shr(16).half();
}

pub(crate) struct Q4_0;

impl Blocks for Q4_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 18;
    const GROUP: usize = 32;
    const OFFSET: u8 = 8;
    const LARGEST: u8 = 15;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn groups<L: Lanes>(block: Block, groups: &mut Groups<L>) {
        groups.scale[0] = block.lower::<L>(0).half();
    }

    #[inline(always)]
    fn codes<L: Lanes>(block: Block, _: usize, word: usize) -> L {
        nibbles::<L>(block, 2, word)
    }
}

pub(crate) struct Q4_1;

impl Blocks for Q4_1 {
    const BLOCK: usize = 32;
    const BYTES: usize = 20;
    const GROUP: usize = 32;
    const OFFSET: u8 = 0;
    const LARGEST: u8 = 15;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn groups<L: Lanes>(block: Block, groups: &mut Groups<L>) {
        both::<L>(block.word(0), groups);
    }

    #[inline(always)]
    fn codes<L: Lanes>(block: Block, _: usize, word: usize) -> L {
        nibbles::<L>(block, 4, word)
    }
}

pub(crate) struct Q5_0;

impl Blocks for Q5_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 22;
    const GROUP: usize = 32;
    const OFFSET: u8 = 16;
    const LARGEST: u8 = 31;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn groups<L: Lanes>(block: Block, groups: &mut Groups<L>) {
        groups.scale[0] = block.lower::<L>(0).half();
    }

    #[inline(always)]
    fn codes<L: Lanes>(block: Block, _: usize, word: usize) -> L {
        nibbles::<L>(block, 6, word).or(fifth_bits(block.word(2), word))
    }
}

pub(crate) struct Q5_1;

impl Blocks for Q5_1 {
    const BLOCK: usize = 32;
    const BYTES: usize = 24;
    const GROUP: usize = 32;
    const OFFSET: u8 = 0;
    const LARGEST: u8 = 31;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn groups<L: Lanes>(block: Block, groups: &mut Groups<L>) {
        both::<L>(block.word(0), groups);
    }

    #[inline(always)]
    fn codes<L: Lanes>(block: Block, _: usize, word: usize) -> L {
        nibbles::<L>(block, 8, word).or(fifth_bits(block.word(4), word))
    }
}

pub(crate) struct Q8_0;

impl Blocks for Q8_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 34;
    const GROUP: usize = 32;
    const OFFSET: u8 = 128;
    const LARGEST: u8 = 255;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn groups<L: Lanes>(block: Block, groups: &mut Groups<L>) {
        groups.scale[0] = block.lower::<L>(0).half();
    }

    #[inline(always)]
    fn codes<L: Lanes>(block: Block, _: usize, word: usize) -> L {
        // Signed bytes, counted from -128.
        block.word::<L>(2 + word * 4).xor(L::splat(0x8080_8080))
    }
}

pub(crate) struct Mxfp4;

impl Blocks for Mxfp4 {
    const BLOCK: usize = 32;
    const BYTES: usize = 17;
    const GROUP: usize = 32;
    const OFFSET: u8 = 12;
    const LARGEST: u8 = 24;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn groups<L: Lanes>(block: Block, groups: &mut Groups<L>) {
        // Half of 2^(e-127): 2^-127 is no normal number but can be halved, and 2^128 is none at all, so that its
        // difference from itself makes the scale NaN, as E8M0 has it.
        let power = block.byte::<L>(0).shl(23).max(L::splat(0x0040_0000));
        let scale = power.mul_float(L::splat(0.5f32.to_bits()));
        groups.scale[0] = scale.add_float(scale.sub_float(scale));
    }

    #[inline(always)]
    fn codes<L: Lanes>(block: Block, _: usize, word: usize) -> L {
        /// E2M1 in halves, from -12: 0, 1, 2, 3, 4, 6, 8, 12, and the same below zero.
        const HALVES: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];
        nibbles::<L>(block, 1, word).lookup(&HALVES)
    }
}
