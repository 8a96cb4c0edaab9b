//! One word of each of sixteen rows, and what is done with the sixteen at once.

use super::LANES;

/// Sixteen words, or the sixteen floats that have their bits.
pub(crate) trait Lanes: Copy {
    fn load(words: &[u32; LANES]) -> Self;
    fn store(self, words: &mut [u32; LANES]);
    /// Little-endian words.
    fn words(bytes: &[u8; 4 * LANES]) -> Self;
    /// Little-endian halves of words, whose other halves are zero.
    fn lower(bytes: &[u8; 2 * LANES]) -> Self;
    /// A byte for each lane.
    fn bytes(bytes: &[u8; LANES]) -> Self;
    fn splat(word: u32) -> Self;
    /// Binary16, as floats.
    fn widened(halves: &[u16; LANES]) -> Self;
    /// The floats as the nearest binary16, halves to even, or the largest finite one of their sign; NaN stays NaN.
    fn narrowed(self) -> [u16; LANES];

    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// By `count` bits; 32 leave nothing.
    fn shl(self, count: u32) -> Self;
    fn shr(self, count: u32) -> Self;
    /// For each byte, which is below 16, that one of the table.
    fn lookup(self, table: &[u8; 16]) -> Self;

    /// The signed integers as floats.
    fn float(self) -> Self;
    /// The lower halves, which are binary16, as floats.
    fn half(self) -> Self;
    fn mul_float(self, other: Self) -> Self;
    fn add_float(self, other: Self) -> Self;
    fn sub_float(self, other: Self) -> Self;
    /// `self * factor + other`, rounded once.
    fn fused(self, factor: Self, other: Self) -> Self;

    /// Adds the products of unsigned codes and activations, byte by byte, to each lane.
    fn dot(self, codes: Self, x: Self) -> Self;
    /// The same for codes beyond 127.
    fn dot_wide(self, codes: Self, x: Self) -> Self;
    /// Whether [`Lanes::dot_wide`] takes 128 from each code.
    const WIDE_IS_SIGNED: bool;
}

/// In plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Words([u32; LANES]);

impl Words {
    #[inline(always)]
    fn map(mut self, operation: impl Fn(u32) -> u32) -> Self {
        self.0.iter_mut().for_each(|word| *word = operation(*word));
        self
    }

    #[inline(always)]
    fn zip(mut self, other: Self, operation: impl Fn(u32, u32) -> u32) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word = operation(*word, other));
        self
    }

    #[inline(always)]
    fn zip_floats(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        self.zip(other, |a, b| operation(f32::from_bits(a), f32::from_bits(b)).to_bits())
    }
}

impl Lanes for Words {
    fn load(words: &[u32; LANES]) -> Self {
        Self(*words)
    }

    fn store(self, words: &mut [u32; LANES]) {
        *words = self.0;
    }

    fn words(bytes: &[u8; 4 * LANES]) -> Self {
        Self(std::array::from_fn(|lane| u32::from_le_bytes(bytes.as_chunks().0[lane])))
    }

    fn lower(bytes: &[u8; 2 * LANES]) -> Self {
        Self(std::array::from_fn(|lane| u16::from_le_bytes(bytes.as_chunks().0[lane]).into()))
    }

    fn bytes(bytes: &[u8; LANES]) -> Self {
        Self(bytes.map(u32::from))
    }

    fn splat(word: u32) -> Self {
        Self([word; LANES])
    }

    fn widened(halves: &[u16; LANES]) -> Self {
        Self(halves.map(|bits| half(bits).to_bits()))
    }

    fn narrowed(self) -> [u16; LANES] {
        self.0.map(|word| to_half(f32::from_bits(word)))
    }

    fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    fn or(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    fn xor(self, other: Self) -> Self {
        self.zip(other, |a, b| a ^ b)
    }

    fn add(self, other: Self) -> Self {
        self.zip(other, u32::wrapping_add)
    }

    fn sub(self, other: Self) -> Self {
        self.zip(other, u32::wrapping_sub)
    }

    fn max(self, other: Self) -> Self {
        self.zip(other, u32::max)
    }

    fn shl(self, count: u32) -> Self {
        self.map(|word| word.checked_shl(count).unwrap_or(0))
    }

    fn shr(self, count: u32) -> Self {
        self.map(|word| word.checked_shr(count).unwrap_or(0))
    }

    fn lookup(self, table: &[u8; 16]) -> Self {
        self.map(|word| u32::from_le_bytes(word.to_le_bytes().map(|byte| table[usize::from(byte & 15)])))
    }

    fn float(self) -> Self {
        self.map(|word| (word.cast_signed() as f32).to_bits())
    }

    fn half(self) -> Self {
        self.map(|word| half(word as u16).to_bits())
    }

    fn mul_float(self, other: Self) -> Self {
        self.zip_floats(other, |a, b| a * b)
    }

    fn add_float(self, other: Self) -> Self {
        self.zip_floats(other, |a, b| a + b)
    }

    fn sub_float(self, other: Self) -> Self {
        self.zip_floats(other, |a, b| a - b)
    }

    fn fused(self, factor: Self, other: Self) -> Self {
        let mut out = self;
        for lane in 0..LANES {
            let [a, b, c] = [self, factor, other].map(|words| f32::from_bits(words.0[lane]));
            out.0[lane] = a.mul_add(b, c).to_bits();
        }
        out
    }

    fn dot(mut self, codes: Self, x: Self) -> Self {
        for lane in 0..LANES {
            let (codes, x) = (codes.0[lane].to_le_bytes(), x.0[lane].to_le_bytes());
            let products = codes.iter().zip(x).map(|(code, x)| i32::from(*code) * i32::from(x.cast_signed()));
            self.0[lane] = self.0[lane].wrapping_add(products.sum::<i32>().cast_unsigned());
        }
        self
    }

    fn dot_wide(self, codes: Self, x: Self) -> Self {
        self.dot(codes, x)
    }

    const WIDE_IS_SIGNED: bool = false;
}

/// IEEE 754 binary16, without a branch.
fn half(bits: u16) -> f32 {
    let pick = |choice: bool, yes: u32, no: u32| if choice { yes } else { no };
    let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff));
    // Subnormals are their fraction times 2^-24.
    let small = (magnitude.cast_signed() as f32 * f32::from_bits(103 << 23)).to_bits();
    let large = (magnitude << 13) + pick(magnitude < 0x7c00, 112 << 23, 224 << 23);
    f32::from_bits(sign | pick(magnitude < 0x0400, small, large))
}

/// The largest finite binary16.
pub(super) const LARGEST_HALF: f32 = 65504.0;

/// As [`Lanes::narrowed`], without a branch.
fn to_half(x: f32) -> u16 {
    /// The smallest normal binary16, and what all numbers below are multiples of when it is added to them.
    const NORMAL: u32 = 113 << 23;
    const STEP: u32 = 126 << 23;
    let pick = |choice: bool, yes: u32, no: u32| if choice { yes } else { no };
    let (sign, magnitude) = (x.to_bits() >> 16 & 0x8000, x.to_bits() & 0x7fff_ffff);
    // As integers, magnitudes have the order of the numbers, and NaN is above them all.
    let nan = 0x7e00 | magnitude >> 13 & 0x03ff;
    let is_nan = magnitude > 0x7f80_0000;
    let magnitude = magnitude.min(LARGEST_HALF.to_bits());
    let small = (f32::from_bits(magnitude) + f32::from_bits(STEP)).to_bits().wrapping_sub(STEP);
    let large = magnitude.wrapping_sub(112 << 23).wrapping_add(0x0fff + (magnitude >> 13 & 1)) >> 13;
    (sign | pick(is_nan, nan, pick(magnitude < NORMAL, small, large))) as u16
}
