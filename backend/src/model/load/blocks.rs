//! Stored matrices brought into blocks that carry their own scale, and checks of what they hold.

use half::{bf16, f16};
use littoral_kernels::Format;

/// Elements that share a scale of DeepSeek's FP4 weights.
pub const FP4_BLOCK: usize = 32;

/// A matrix of FP8 numbers, `[rows, cols]`, with a scale for each block of `block` rows and columns, to rows of blocks
/// that begin with their scale. Blocks at the edges may be short; those of the last column are filled up with zeros.
pub fn fp8(data: &[u8], cols: usize, scales: &[f32], block: [usize; 2]) -> Vec<u8> {
    let across = cols.div_ceil(block[1]);
    let mut out = Vec::with_capacity(data.len() / cols * across * (4 + block[1]));
    for (i, row) in data.chunks_exact(cols).enumerate() {
        let scales = &scales[i / block[0] * across..][..across];
        for (values, scale) in row.chunks(block[1]).zip(scales) {
            out.extend_from_slice(&scale.to_le_bytes());
            out.extend_from_slice(values);
            out.resize(out.len() + block[1] - values.len(), 0);
        }
    }
    out
}

/// FP4 numbers, two a byte and the first in the low half, with an exponent for each [`FP4_BLOCK`] of a row, to ggml's
/// MXFP4: the exponent, then sixteen bytes whose low halves are the block's first half.
pub fn fp4(data: &[u8], exponents: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + exponents.len());
    for (packed, exponent) in data.chunks_exact(FP4_BLOCK / 2).zip(exponents) {
        out.push(*exponent);
        let nibble = |i: usize| if i.is_multiple_of(2) { packed[i / 2] & 15 } else { packed[i / 2] >> 4 };
        out.extend((0..FP4_BLOCK / 2).map(|i| nibble(i) | nibble(i + FP4_BLOCK / 2) << 4));
    }
    out
}

/// Whether no number, or no scale of a block, is infinite or not a number.
pub fn finite(format: Format, data: &[u8]) -> bool {
    // Where a block has its scales, in f16.
    let halves: &[usize] = match format {
        Format::F32 => return data.as_chunks().0.iter().all(|b| f32::from_le_bytes(*b).is_finite()),
        Format::F16 => return data.as_chunks().0.iter().all(|b| f16::from_le_bytes(*b).is_finite()),
        Format::BF16 => return data.as_chunks().0.iter().all(|b| bf16::from_le_bytes(*b).is_finite()),
        Format::F8E4M3 { .. } => {
            let nan = |b: &u8| b & 0x7f == 0x7f;
            return data.chunks_exact(format.block_bytes()).all(|block| {
                let (scale, values) = block.split_at(4);
                scale.as_chunks().0.iter().all(|b| f32::from_le_bytes(*b).is_finite()) && !values.iter().any(nan)
            });
        }
        Format::Mxfp4 => return data.chunks_exact(format.block_bytes()).all(|block| block[0] != 0xff),
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q6K => &[208],
    };
    let half = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]).is_finite();
    data.chunks_exact(format.block_bytes()).all(|block| halves.iter().all(|at| half(block, *at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp8_blocks_carry_their_scale() {
        // Three rows of three, in blocks of two: four scales.
        let data = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let out = fp8(&data, 3, &[0.5, 1.0, 2.0, 4.0], [2, 2]);
        let block = |scale: f32, values: [u8; 2]| [&scale.to_le_bytes()[..], &values].concat();
        let expected = [
            block(0.5, [1, 2]),
            block(1.0, [3, 0]),
            block(0.5, [4, 5]),
            block(1.0, [6, 0]),
            block(2.0, [7, 8]),
            block(4.0, [9, 0]),
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn fp4_pairs_are_taken_apart() {
        // Element i is i & 15.
        let data: Vec<u8> = (0..16).map(|i| ((2 * i) & 15) | (((2 * i + 1) & 15) << 4)).collect();
        let out = fp4(&data, &[130]);
        assert_eq!(out[0], 130);
        assert_eq!(out[1..].iter().map(|b| b & 15).collect::<Vec<_>>(), (0..16).collect::<Vec<u8>>());
        assert_eq!(out[1..].iter().map(|b| b >> 4).collect::<Vec<_>>(), (0..16).collect::<Vec<u8>>());
    }

    #[test]
    fn numbers_that_are_none_are_found() {
        assert!(finite(Format::F32, &1f32.to_le_bytes()));
        assert!(!finite(Format::F32, &f32::NAN.to_le_bytes()));
        assert!(!finite(Format::BF16, &bf16::INFINITY.to_le_bytes()));
        for format in [Format::Q4_0, Format::Q4_1, Format::Q5_1, Format::Q8_0, Format::Q4K, Format::Q6K] {
            let mut block = vec![0; format.block_bytes()];
            assert!(finite(format, &block), "{format}");
            let at = if format == Format::Q6K { 208 } else { 0 };
            block[at..at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
            assert!(!finite(format, &block), "{format}");
        }
        let format = Format::F8E4M3 { block: 2 };
        assert!(finite(format, &[0, 0, 0x80, 0x3f, 1, 2]));
        assert!(!finite(format, &[0, 0, 0x80, 0x3f, 1, 0xff]));
    }
}
