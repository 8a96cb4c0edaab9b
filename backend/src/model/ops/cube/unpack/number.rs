//! Small floating-point numbers and packed integers to f32, by operations on words alone: a shading language need not
//! have such types.

use cubecl::prelude::*;

use super::Quad;

/// Four small numbers.
pub type Codes = Vector<u32, Const<4>>;

/// IEEE 754 binary16, in the low half of a word whose high half is zero.
#[cube]
pub fn f16(bits: u32) -> f32 {
    let magnitude = bits & 0x7fff;
    let large = (magnitude << 13) + select(magnitude < 0x7c00, 0x3800_0000u32, 0x7000_0000u32);
    // Subnormals lack the leading one: with it they are 2^-14 too much.
    let small = u32::reinterpret(f32::reinterpret((magnitude << 13) + 0x3880_0000) - 0.000_061_035_156);
    f32::reinterpret(((bits & 0x8000) << 16) | select(magnitude < 0x0400, small, large))
}

/// The four OCP E4M3 of a word, without their NaN: no weight is that.
#[cube]
pub fn e4m3(word: u32) -> Quad {
    let mut quad = Quad::empty();
    #[unroll]
    for i in 0..4usize {
        let top = word << comptime!((24 - 8 * i) as u32);
        let magnitude = (top >> 4) & 0x07f0_0000;
        let large = magnitude + 0x3c00_0000;
        // Subnormals lack the leading one: with it they are 2^-6 too much.
        let small = u32::reinterpret(f32::reinterpret(magnitude + 0x3c80_0000) - 0.015_625);
        quad.insert(i, f32::reinterpret((top & 0x8000_0000u32) | select(magnitude < 0x0080_0000, small, large)));
    }
    quad
}

/// Half of 2^(e-127), which is the scale of E2M1 values counted in halves. The smallest two are subnormal, which a
/// device may take for zero; 255 is NaN.
#[cube]
pub fn half_e8m0(e: u32) -> f32 {
    let bits = select(e < 2, 0x0020_0000u32 << e, (e - 1) << 23);
    f32::reinterpret(select(e == 255, 0x7fc0_0000u32, bits))
}

/// E2M1 values, counted in halves.
#[cube]
pub fn e2m1(codes: Codes) -> Quad {
    let mut halves = Codes::empty();
    let mut signs = Codes::empty();
    #[unroll]
    for i in 0..4usize {
        let code = codes.extract(i);
        // A nibble of the word for each magnitude: 0, 1, 2, 3, 4, 6, 8, 12.
        halves.insert(i, (0xc864_3210u32 >> ((code & 7) * 4)) & 15);
        signs.insert(i, (code & 8) << 28);
    }
    Quad::reinterpret(Codes::reinterpret(floats(halves)) | signs)
}

/// Codes as floats. They are made the last bits of 2^23, as many devices convert slower than they subtract.
#[cube]
pub fn floats(codes: Codes) -> Quad {
    Quad::reinterpret(codes | Codes::new(0x4b00_0000u32)) - Quad::new(8_388_608.0)
}

/// Bits of each byte of a word.
#[cube]
pub fn codes(word: u32, #[comptime] shift: usize, #[comptime] mask: u32) -> Codes {
    let mut codes = Codes::empty();
    #[unroll]
    for i in 0..4usize {
        codes.insert(i, (word >> comptime!((8 * i + shift) as u32)) & mask);
    }
    codes
}

/// The lowest four bits of a word.
#[cube]
pub fn bits(word: u32) -> Codes {
    let mut bits = Codes::empty();
    #[unroll]
    for i in 0..4usize {
        bits.insert(i, (word >> comptime!(i as u32)) & 1);
    }
    bits
}

/// The four signed bytes of a word.
#[cube]
pub fn signed(word: u32) -> Quad {
    floats(codes(word ^ 0x8080_8080u32, 0usize, 0xffu32)) - Quad::new(128.0)
}

/// A signed byte.
#[cube]
pub fn signed_byte(byte: u32) -> f32 {
    f32::cast_from(i32::reinterpret(byte << 24) >> 24)
}

/// `codes * scale + min`
#[cube]
pub fn scaled(codes: Codes, scale: f32, min: f32) -> Quad {
    floats(codes) * Quad::new(scale) + Quad::new(min)
}
