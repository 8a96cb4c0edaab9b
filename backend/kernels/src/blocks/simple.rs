//! Blocks of 32 weights.

use super::{Blocks, Raw, Unpacked};
use crate::simd::Lanes;

/// The sixteen bytes at `at`, whose low nibbles are elements 0..16 and whose high ones are 16..32.
#[inline(always)]
fn nibbles<L: Lanes>(raw: Raw, at: usize) -> [L; 8] {
    let low = L::splat(0x0f0f_0f0f);
    let mut codes = [low; 8];
    for i in 0..4 {
        let word: L = raw.word(at + i * 4);
        codes[i] = word.and(low);
        codes[i + 4] = word.shr(4).and(low);
    }
    codes
}

/// Adds the fifth bits, from the bits of a word.
#[inline(always)]
fn fifth_bits<L: Lanes>(bits: L, mut codes: [L; 8]) -> [L; 8] {
    for (i, codes) in codes.iter_mut().enumerate() {
        // Four bits, each to the lowest place of a byte.
        let four = bits.shr(i as u32 * 4).and(L::splat(15));
        let spread = four.or(four.shl(7)).or(four.shl(14).or(four.shl(21)));
        *codes = codes.or(spread.and(L::splat(0x0101_0101)).shl(4));
    }
    codes
}

#[inline(always)]
fn store<L: Lanes>(out: &mut Unpacked, codes: [L; 8]) {
    for (i, codes) in codes.into_iter().enumerate() {
        out.codes(i, codes);
    }
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
    fn unpack<L: Lanes>(raw: Raw, out: &mut Unpacked) {
        out.scale(0, raw.word::<L>(0).half());
        store(out, nibbles::<L>(raw, 2));
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
    fn unpack<L: Lanes>(raw: Raw, out: &mut Unpacked) {
        let both: L = raw.word(0);
        out.scale(0, both.half());
        out.min(0, both.shr(16).half());
        store(out, nibbles::<L>(raw, 4));
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
    fn unpack<L: Lanes>(raw: Raw, out: &mut Unpacked) {
        out.scale(0, raw.word::<L>(0).half());
        store(out, fifth_bits(raw.word::<L>(2), nibbles(raw, 6)));
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
    fn unpack<L: Lanes>(raw: Raw, out: &mut Unpacked) {
        let both: L = raw.word(0);
        out.scale(0, both.half());
        out.min(0, both.shr(16).half());
        store(out, fifth_bits(raw.word::<L>(4), nibbles(raw, 8)));
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
    fn unpack<L: Lanes>(raw: Raw, out: &mut Unpacked) {
        out.scale(0, raw.word::<L>(0).half());
        for i in 0..8 {
            // Signed bytes, counted from -128.
            out.codes(i, raw.word::<L>(2 + i * 4).xor(L::splat(0x8080_8080)));
        }
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
    fn unpack<L: Lanes>(raw: Raw, out: &mut Unpacked) {
        /// E2M1 in halves: 0, 1, 2, 3, 4, 6, 8, 12, and the same below zero.
        const HALVES: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];
        // Half of 2^(e-127): 2^-127 is no normal number but can be halved, and 2^128 is none at all, so that its
        // difference from itself makes the scale NaN, as E8M0 has it.
        let power = raw.word::<L>(0).and(L::splat(255)).shl(23).max(L::splat(0x0040_0000));
        let scale = power.mul_float(L::splat(0.5f32.to_bits()));
        out.scale(0, scale.add_float(scale.sub_float(scale)));
        for (i, codes) in nibbles::<L>(raw, 1).into_iter().enumerate() {
            out.codes(i, codes.lookup(&HALVES));
        }
    }
}
