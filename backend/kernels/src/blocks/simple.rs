//! Blocks of 32 weights.

use super::{Blocks, Groups, Half, half};
use crate::number::half_e8m0;

/// Low nibbles are elements 0..16, high ones 16..32.
#[inline(always)]
fn nibbles(packed: &[u8], codes: &mut [u8]) {
    let packed: &[u8; 16] = packed.first_chunk().expect("16 bytes of nibbles");
    let codes: &mut [u8; 32] = codes.first_chunk_mut().expect("32 codes");
    for i in 0..16 {
        codes[i] = packed[i] & 15;
        codes[i + 16] = packed[i] >> 4;
    }
}

/// Adds the fifth bit of 32 codes, from the bits of a word.
#[inline(always)]
fn fifth_bits(packed: &[u8], codes: &mut [u8]) {
    let packed: [u8; 4] = *packed.first_chunk().expect("4 bytes of bits");
    let codes: &mut [u8; 32] = codes.first_chunk_mut().expect("32 codes");
    for i in 0..32 {
        codes[i] |= u8::from(packed[i / 8] & 1 << (i % 8) != 0) << 4;
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
    fn unpack<H: Half>(block: &[u8], codes: &mut [u8], groups: &mut Groups) {
        groups.scale[0] = half::<H>(block, 0);
        nibbles(&block[2..], codes);
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
    fn unpack<H: Half>(block: &[u8], codes: &mut [u8], groups: &mut Groups) {
        groups.scale[0] = half::<H>(block, 0);
        groups.min[0] = half::<H>(block, 2);
        nibbles(&block[4..], codes);
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
    fn unpack<H: Half>(block: &[u8], codes: &mut [u8], groups: &mut Groups) {
        groups.scale[0] = half::<H>(block, 0);
        nibbles(&block[6..], codes);
        fifth_bits(&block[2..], codes);
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
    fn unpack<H: Half>(block: &[u8], codes: &mut [u8], groups: &mut Groups) {
        groups.scale[0] = half::<H>(block, 0);
        groups.min[0] = half::<H>(block, 2);
        nibbles(&block[8..], codes);
        fifth_bits(&block[4..], codes);
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
    fn unpack<H: Half>(block: &[u8], codes: &mut [u8], groups: &mut Groups) {
        groups.scale[0] = half::<H>(block, 0);
        let bytes: &[u8; 32] = block[2..].first_chunk().expect("32 bytes");
        let codes: &mut [u8; 32] = codes.first_chunk_mut().expect("32 codes");
        for i in 0..32 {
            codes[i] = bytes[i] ^ 128;
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
    fn unpack<H: Half>(block: &[u8], codes: &mut [u8], groups: &mut Groups) {
        groups.scale[0] = half_e8m0(block[0]);
        nibbles(&block[1..], codes);
        let codes: &mut [u8; 32] = codes.first_chunk_mut().expect("32 codes");
        for code in codes {
            // E2M1 in halves: 0, 1, 2, 3, 4, 6, 8, 12; the fourth bit is the sign.
            let m = *code & 7;
            let halves = m + u8::from(m >= 5) + u8::from(m >= 6) + u8::from(m >= 7) * 3;
            *code = if *code & 8 == 0 { 12 + halves } else { 12 - halves };
        }
    }
}
