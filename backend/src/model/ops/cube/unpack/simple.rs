//! Numbers without blocks, and blocks with one scale.

use cubecl::prelude::*;
use littoral_kernels::Format;

use super::{
    EIGHT, Eight, Packed, Quad, Row,
    number::{bits, codes, e2m1, e4m3, f16, half_e8m0, scaled, signed},
    words::{Place, block_of, byte, half, halves_of, place, plain, word},
};

#[cube]
pub fn f32s(words: &[u32], row: &Row, eight: usize, #[comptime] packed: Packed) -> Eight {
    let start = row.index * row.cols + eight * EIGHT;
    let (mut low, mut high) = (Quad::empty(), Quad::empty());
    #[unroll]
    for i in 0..4usize {
        low.insert(i, f32::reinterpret(plain(words, start + i, packed)));
        high.insert(i, f32::reinterpret(plain(words, start + i + 4, packed)));
    }
    Eight { low, high }
}

/// Binary16 or bfloat16.
#[cube]
pub fn halves(words: &[u32], row: &Row, eight: usize, #[comptime] packed: Packed) -> Eight {
    let at = halves_of(row, eight);
    Eight { low: four_halves(words, &at, 0usize, packed), high: four_halves(words, &at, 2usize, packed) }
}

#[cube]
fn four_halves(words: &[u32], at: &Place, skip: usize, #[comptime] packed: Packed) -> Quad {
    let mut quad = Quad::empty();
    #[unroll]
    for i in 0..2usize {
        let pair = word(words, at, skip + i, 0usize, packed);
        if comptime!(matches!(packed.format, Format::BF16)) {
            quad.insert(comptime!(2 * i), f32::reinterpret(pair << 16));
            quad.insert(comptime!(2 * i + 1), f32::reinterpret(pair & 0xffff_0000u32));
        } else {
            quad.insert(comptime!(2 * i), f16(pair & 0xffff));
            quad.insert(comptime!(2 * i + 1), f16(pair >> 16));
        }
    }
    quad
}

/// E4M3 below an f32 scale.
#[cube]
pub fn f8(words: &[u32], row: &Row, eight: usize, #[comptime] packed: Packed) -> Eight {
    if comptime!(packed.format.block().is_multiple_of(EIGHT)) {
        let (at, e) = block_of(row, eight, packed);
        let scale = Quad::new(f32::reinterpret(word(words, &at, 0usize, 0usize, packed)));
        let low = e4m3(word(words, &at, 2 * e, 4usize, packed));
        let high = e4m3(word(words, &at, 2 * e + 1, 4usize, packed));
        Eight { low: low * scale, high: high * scale }
    } else {
        f8_one_by_one(words, row, eight, packed)
    }
}

/// Blocks that end within an eight.
#[cube]
fn f8_one_by_one(words: &[u32], row: &Row, eight: usize, #[comptime] packed: Packed) -> Eight {
    let block = comptime!(packed.format.block());
    let blocks = row.cols.div_ceil(block);
    let (mut low, mut high) = (Quad::empty(), Quad::empty());
    #[unroll]
    for i in 0..EIGHT {
        let col = min(eight * EIGHT + i, row.cols - 1);
        let at = place(row.index * blocks + col / block, comptime!(packed.format.block_bytes()));
        let scale = f32::reinterpret(word(words, &at, 0usize, 0usize, packed));
        let value = e4m3(byte(words, &at, 4 + col % block)).extract(0usize) * scale;
        if comptime!(i < 4) {
            low.insert(i, value);
        } else {
            high.insert(comptime!(i - 4), value);
        }
    }
    Eight { low, high }
}

/// Nibbles, with or without a fifth bit and a minimum.
#[cube]
pub fn nibbles(words: &[u32], row: &Row, eight: usize, #[comptime] packed: Packed) -> Eight {
    let (at, e) = block_of(row, eight, packed);
    let fifth = comptime!(matches!(packed.format, Format::Q5_0 | Format::Q5_1));
    let minimum = comptime!(matches!(packed.format, Format::Q4_1 | Format::Q5_1));
    let scale = half(words, &at, 0usize);
    let header = comptime!(if minimum { 4usize } else { 2 });
    let packed_bytes = word(words, &at, e, comptime!(header + if fifth { 4 } else { 0 }), packed);
    let (mut low, mut high) = (codes(packed_bytes, 0usize, 15u32), codes(packed_bytes, 4usize, 15u32));
    if comptime!(fifth) {
        let fifths = word(words, &at, 0usize, header, packed) >> u32::cast_from(4 * e);
        low += bits(fifths) * Vector::new(16u32);
        high += bits(fifths >> 16) * Vector::new(16u32);
    }
    let min = if comptime!(minimum) {
        half(words, &at, 2usize)
    } else if comptime!(fifth) {
        -(scale * 16.0)
    } else {
        -(scale * 8.0)
    };
    Eight { low: scaled(low, scale, min), high: scaled(high, scale, min) }
}

#[cube]
pub fn q8_0(words: &[u32], row: &Row, eight: usize, #[comptime] packed: Packed) -> Eight {
    let (at, e) = block_of(row, eight, packed);
    let scale = Quad::new(half(words, &at, 0usize));
    let low = signed(word(words, &at, 2 * e, 2usize, packed));
    let high = signed(word(words, &at, 2 * e + 1, 2usize, packed));
    Eight { low: low * scale, high: high * scale }
}

#[cube]
pub fn mxfp4(words: &[u32], row: &Row, eight: usize, #[comptime] packed: Packed) -> Eight {
    let (at, e) = block_of(row, eight, packed);
    let scale = Quad::new(half_e8m0(byte(words, &at, 0usize)));
    let nibbles = word(words, &at, e, 1usize, packed);
    let (low, high) = (codes(nibbles, 0usize, 15u32), codes(nibbles, 4usize, 15u32));
    Eight { low: e2m1(low) * scale, high: e2m1(high) * scale }
}
