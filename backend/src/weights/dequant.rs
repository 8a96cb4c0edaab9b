//! Quantised blocks to f32. The formats are ggml's (`ggml-common.h`); all numbers are little-endian.

use super::gguf::TensorType;

/// Elements of a block of the formats read here.
const BLOCK: usize = 32;

/// Whether [`to_f32`] reads this type.
pub fn is_supported(kind: TensorType) -> bool {
    matches!(
        kind,
        TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q8_0
    )
}

/// The types [`to_f32`] reads, for messages.
pub const SUPPORTED: &str = "F32, F16, BF16, Q8_0, Q4_1 and Q4_0";

/// Appends the elements of `data` to `out`. `data` holds whole blocks of a supported type; other types add nothing.
pub fn to_f32(kind: TensorType, data: &[u8], out: &mut Vec<f32>) {
    match kind {
        TensorType::F32 => out.extend(data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        TensorType::F16 => out.extend(data.as_chunks().0.iter().map(|b| f16_to_f32(u16::from_le_bytes(*b)))),
        TensorType::BF16 => {
            out.extend(data.as_chunks().0.iter().map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)));
        }
        // A scale, then 32 signed bytes.
        TensorType::Q8_0 => {
            for block in data.as_chunks::<34>().0 {
                let scale = half(block, 0);
                out.extend(block[2..].iter().map(|q| f32::from(q.cast_signed()) * scale));
            }
        }
        // A scale, then 16 bytes: the low nibbles are elements 0..16, the high ones 16..32; 8 is zero.
        TensorType::Q4_0 => {
            for block in data.as_chunks::<18>().0 {
                nibbles(&block[2..], half(block, 0), -8.0 * half(block, 0), out);
            }
        }
        // A scale, a minimum, then nibbles as above.
        TensorType::Q4_1 => {
            for block in data.as_chunks::<20>().0 {
                nibbles(&block[4..], half(block, 0), half(block, 2), out);
            }
        }
        _ => {}
    }
}

fn nibbles(packed: &[u8], scale: f32, min: f32, out: &mut Vec<f32>) {
    debug_assert_eq!(packed.len(), BLOCK / 2);
    out.extend(packed.iter().map(|q| f32::from(q & 15) * scale + min));
    out.extend(packed.iter().map(|q| f32::from(q >> 4) * scale + min));
}

fn half(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// IEEE 754 binary16 to binary32, exact.
fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    match exponent {
        // Zero and subnormals: fraction * 2^-24.
        0 => f32::from_bits(sign | (fraction as f32 * 2f32.powi(-24)).to_bits()),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_exact() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x8000, -0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 2f32.powi(-24)),
            (0x03ff, 1023.0 * 2f32.powi(-24)),
            (0x0400, 2f32.powi(-14)),
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ] {
            assert_eq!(f16_to_f32(bits).to_bits(), f32::to_bits(value), "{bits:#06x}");
        }
        assert!(f16_to_f32(0x7e00).is_nan());
    }

    #[test]
    fn blocks_unpack_in_order() {
        // Scale 0.5, minimum -1, nibble i is i & 15 in both halves.
        let mut q4_1 = vec![0x00, 0x38, 0x00, 0xbc];
        q4_1.extend((0..16).map(|i| i | i << 4));
        let mut out = Vec::new();
        to_f32(TensorType::Q4_1, &q4_1, &mut out);
        let expected: Vec<f32> = (0..32).map(|i| (i % 16) as f32 * 0.5 - 1.0).collect();
        assert_eq!(out, expected);

        let mut q4_0 = vec![0x00, 0x38];
        q4_0.extend((0..16).map(|i| i | (15 - i) << 4));
        out.clear();
        to_f32(TensorType::Q4_0, &q4_0, &mut out);
        assert_eq!((out[0], out[15], out[16], out[31]), (-4.0, 3.5, 3.5, -4.0));

        let mut q8_0 = vec![0x00, 0x40];
        q8_0.extend((0..32).map(|i| (i as i8 - 16).cast_unsigned()));
        out.clear();
        to_f32(TensorType::Q8_0, &q8_0, &mut out);
        let expected: Vec<f32> = (0..32).map(|i| (i - 16) as f32 * 2.0).collect();
        assert_eq!(out, expected);

        out.clear();
        to_f32(TensorType::BF16, &[0x80, 0x3f, 0x00, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
    }

    #[test]
    fn supported_types_are_those_that_unpack() {
        for kind in (0..40).map(TensorType) {
            let mut out = Vec::new();
            to_f32(kind, &[0; 340 * 9], &mut out);
            assert_eq!(is_supported(kind), !out.is_empty(), "{kind}");
        }
    }
}
