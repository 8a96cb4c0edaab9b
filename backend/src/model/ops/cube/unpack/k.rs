//! Blocks of 256 weights in groups whose scales are themselves integers below a scale. A block is read in runs of eight
//! words; run and word of an eight are `e / 8` and `e % 8`.

use cubecl::prelude::*;
use littoral_kernels::Format;

use super::{
    Eight, Packed, Row,
    number::{codes, scaled, signed_byte},
    words::{Place, block_of, byte, half, word},
};

/// Two bits a weight: a byte holds one of four runs of 32.
#[cube]
pub fn q2_k(words: &[u32], row: &Row, eight: usize, #[comptime] packed: Packed) -> Eight {
    let (at, e) = block_of(row, eight, packed);
    let (n, pair) = (e / 16, e / 8 % 2);
    let q = word(words, &at, n * 8 + e % 8, 16usize, packed) >> u32::cast_from(pair * 4);
    let group = e / 8 * 4 + e % 8 / 4;
    let (d, dmin) = (half(words, &at, 80usize), half(words, &at, 82usize));
    let (first, second) = (byte(words, &at, group), byte(words, &at, group + 2));
    Eight {
        low: scaled(codes(q, 0usize, 3u32), d * f32::cast_from(first & 15), -(dmin * f32::cast_from(first >> 4))),
        high: scaled(codes(q, 2usize, 3u32), d * f32::cast_from(second & 15), -(dmin * f32::cast_from(second >> 4))),
    }
}

/// As Q2_K, with the third bits in the first 32 bytes: bit `j` belongs to the `j`th run of 32.
#[cube]
pub fn q3_k(words: &[u32], row: &Row, eight: usize, #[comptime] packed: Packed) -> Eight {
    let (at, e) = block_of(row, eight, packed);
    let (n, pair) = (e / 16, e / 8 % 2);
    let q = word(words, &at, n * 8 + e % 8, 32usize, packed) >> u32::cast_from(pair * 4);
    let third = word(words, &at, e % 8, 0usize, packed) >> u32::cast_from(e / 8 * 2);
    let group = e / 8 * 4 + e % 8 / 4;
    let d = half(words, &at, 108usize);
    let (first, second) = (d * q3_k_scale(words, &at, group), d * q3_k_scale(words, &at, group + 2));
    let low = codes(q, 0usize, 3u32) + codes(third, 0usize, 1u32) * Vector::new(4u32);
    let high = codes(q, 2usize, 3u32) + codes(third, 1usize, 1u32) * Vector::new(4u32);
    Eight { low: scaled(low, first, -(first * 4.0)), high: scaled(high, second, -(second * 4.0)) }
}

/// Sixteen six-bit scales: four low bits in eight bytes, two high bits in the next four.
#[cube]
fn q3_k_scale(words: &[u32], at: &Place, group: usize) -> f32 {
    let low = (byte(words, at, 96 + group % 8) >> u32::cast_from(group / 8 * 4)) & 15;
    let high = (byte(words, at, 104 + group % 4) >> u32::cast_from(group / 4 * 2)) & 3;
    f32::cast_from(low + high * 16) - 32.0
}

/// Q4_K and Q5_K: nibbles of runs of 64; in Q5_K the fifth bits come before them, bit `j` for the `j`th run of 32.
#[cube]
pub fn q45_k(words: &[u32], row: &Row, eight: usize, #[comptime] packed: Packed) -> Eight {
    let (at, e) = block_of(row, eight, packed);
    let fifth = comptime!(matches!(packed.format, Format::Q5K));
    let q = word(words, &at, e, comptime!(if fifth { 48usize } else { 16 }), packed);
    let (mut low, mut high) = (codes(q, 0usize, 15u32), codes(q, 4usize, 15u32));
    if comptime!(fifth) {
        let fifths = word(words, &at, e % 8, 16usize, packed) >> u32::cast_from(e / 8 * 2);
        low += codes(fifths, 0usize, 1u32) * Vector::new(16u32);
        high += codes(fifths, 1usize, 1u32) * Vector::new(16u32);
    }
    let group = e / 8 * 2;
    let (d, dmin) = (half(words, &at, 0usize), half(words, &at, 2usize));
    let (first, first_min) = six_bits(words, &at, group);
    let (second, second_min) = six_bits(words, &at, group + 1);
    Eight { low: scaled(low, d * first, -(dmin * first_min)), high: scaled(high, d * second, -(dmin * second_min)) }
}

/// The six-bit scale and minimum of a group in the twelve bytes of Q4_K and Q5_K.
#[cube]
fn six_bits(words: &[u32], at: &Place, group: usize) -> (f32, f32) {
    let (a, b) = (byte(words, at, 4 + group % 4), byte(words, at, 8 + group % 4));
    let c = byte(words, at, 12 + group % 4);
    let scale = select(group < 4, a & 63, (c & 15) | ((a >> 6) << 4));
    let min = select(group < 4, b & 63, (c >> 4) | ((b >> 6) << 4));
    (f32::cast_from(scale), f32::cast_from(min))
}

/// Four low bits and two high bits, in different bytes.
#[cube]
pub fn q6_k(words: &[u32], row: &Row, eight: usize, #[comptime] packed: Packed) -> Eight {
    let (at, e) = block_of(row, eight, packed);
    let (n, run) = (e / 16, e / 8 % 2);
    let q = word(words, &at, e, 0usize, packed);
    let upper = word(words, &at, n * 8 + e % 8, 128usize, packed) >> u32::cast_from(run * 2);
    let group = n * 8 + run * 2 + e % 8 / 4;
    let d = half(words, &at, 208usize);
    let first = d * signed_byte(byte(words, &at, 192 + group));
    let second = d * signed_byte(byte(words, &at, 196 + group));
    let low = codes(q, 0usize, 15u32) + codes(upper, 0usize, 3u32) * Vector::new(16u32);
    let high = codes(q, 4usize, 15u32) + codes(upper, 4usize, 3u32) * Vector::new(16u32);
    Eight { low: scaled(low, first, -(first * 32.0)), high: scaled(high, second, -(second * 32.0)) }
}
