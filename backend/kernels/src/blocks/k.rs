//! Blocks of 256 weights in groups whose scales are themselves integers below a scale.

use super::{Blocks, Groups, Half, half};

/// The six-bit scale and minimum of group `j` in the twelve bytes of Q4_K and Q5_K.
#[inline(always)]
fn scale_min(packed: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    }
}

/// The eight scales and minima of Q4_K and Q5_K, which open a block.
#[inline(always)]
fn eight_groups<H: Half>(block: &[u8], groups: &mut Groups) {
    let (d, dmin) = (half::<H>(block, 0), half::<H>(block, 2));
    let packed: &[u8; 12] = block[4..].first_chunk().expect("12 bytes of scales");
    for j in 0..8 {
        let (scale, min) = scale_min(packed, j);
        groups.scale[j] = d * f32::from(scale);
        groups.min[j] = -(dmin * f32::from(min));
    }
}

/// `N` bytes at `at`.
#[inline(always)]
fn part<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("a whole block")
}

/// 32 codes at `at`.
#[inline(always)]
fn codes_at(codes: &mut [u8], at: usize) -> &mut [u8; 32] {
    codes[at..].first_chunk_mut().expect("a whole block of codes")
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
    fn unpack<H: Half>(block: &[u8], codes: &mut [u8], groups: &mut Groups) {
        let (d, dmin) = (half::<H>(block, 80), half::<H>(block, 82));
        let scales: &[u8; 16] = part(block, 0);
        for j in 0..16 {
            groups.scale[j] = d * f32::from(scales[j] & 15);
            groups.min[j] = -(dmin * f32::from(scales[j] >> 4));
        }
        for n in 0..8 {
            let q: &[u8; 32] = part(block, 16 + n / 4 * 32);
            let codes = codes_at(codes, n * 32);
            for i in 0..32 {
                codes[i] = q[i] >> (n % 4 * 2) & 3;
            }
        }
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
    fn unpack<H: Half>(block: &[u8], codes: &mut [u8], groups: &mut Groups) {
        let d = half::<H>(block, 108);
        // Sixteen six-bit scales: four low bits in eight bytes, two high bits in the next four.
        let scales: &[u8; 12] = part(block, 96);
        for j in 0..16 {
            let low = if j < 8 { scales[j] & 15 } else { scales[j - 8] >> 4 };
            let high = scales[8 + j % 4] >> (j / 4 * 2) & 3;
            groups.scale[j] = d * f32::from((low | high << 4).cast_signed() - 32);
        }
        let mask: &[u8; 32] = part(block, 0);
        for n in 0..8 {
            let q: &[u8; 32] = part(block, 32 + n / 4 * 32);
            let codes = codes_at(codes, n * 32);
            for i in 0..32 {
                codes[i] = q[i] >> (n % 4 * 2) & 3 | (mask[i] >> n & 1) << 2;
            }
        }
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
    fn unpack<H: Half>(block: &[u8], codes: &mut [u8], groups: &mut Groups) {
        eight_groups::<H>(block, groups);
        for n in 0..8 {
            let q: &[u8; 32] = part(block, 16 + n / 2 * 32);
            let codes = codes_at(codes, n * 32);
            for i in 0..32 {
                codes[i] = q[i] >> (n % 2 * 4) & 15;
            }
        }
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
    fn unpack<H: Half>(block: &[u8], codes: &mut [u8], groups: &mut Groups) {
        eight_groups::<H>(block, groups);
        let high: &[u8; 32] = part(block, 16);
        for n in 0..8 {
            let q: &[u8; 32] = part(block, 48 + n / 2 * 32);
            let codes = codes_at(codes, n * 32);
            for i in 0..32 {
                codes[i] = q[i] >> (n % 2 * 4) & 15 | (high[i] >> n & 1) << 4;
            }
        }
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
    fn unpack<H: Half>(block: &[u8], codes: &mut [u8], groups: &mut Groups) {
        let d = half::<H>(block, 208);
        let scales: &[u8; 16] = part(block, 192);
        for j in 0..16 {
            groups.scale[j] = d * f32::from(scales[j].cast_signed());
        }
        for n in 0..8 {
            // Four runs of 32 share 64 bytes of nibbles and 32 bytes of upper bits.
            let (side, run) = (n / 4, n % 4);
            let low: &[u8; 32] = part(block, side * 64 + run % 2 * 32);
            let high: &[u8; 32] = part(block, 128 + side * 32);
            let codes = codes_at(codes, n * 32);
            for i in 0..32 {
                codes[i] = low[i] >> (run / 2 * 4) & 15 | (high[i] >> (run * 2) & 3) << 4;
            }
        }
    }
}
