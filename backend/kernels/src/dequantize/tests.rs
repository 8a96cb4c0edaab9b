//! Values against those of gguf-py (`golden/blocks.py`), and the quantisers against what they undo.

use crate::linear::tests::{Matrices, Random, bits};
use crate::{Format, QuantizeError, dequantize, embed, quantize};

#[test]
fn values_are_those_of_gguf_py() {
    let mut bytes: &[u8] = include_bytes!("../../golden/blocks.bin");
    let mut formats = 0;
    while !bytes.is_empty() {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let name = str::from_utf8(&bytes[..8]).unwrap().trim_end_matches('\0');
        let format: Format = name.parse().unwrap();
        let (blocks, elements) = (word(8), word(12));
        assert_eq!(elements, blocks * format.block());
        let (data, rest) = bytes[16..].split_at(blocks * format.block_bytes());
        let (values, rest) = rest.split_at(elements * 4);
        let ought: Vec<_> = values.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let mut is = vec![f32::NAN; elements];
        dequantize(format, elements, data, &mut is);
        for (i, (is, ought)) in is.iter().zip(&ought).enumerate() {
            assert!(is == ought, "element {i} of {format}: {is} for {ought}");
        }
        bytes = rest;
        formats += 1;
    }
    assert_eq!(formats, Format::ALL.iter().filter(|format| format.codes().is_some()).count());
}

#[test]
fn floats_are_read() {
    let mut out = [0.0; 3];
    dequantize(Format::F32, 3, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 0, 0, 0, 0], &mut out);
    assert_eq!(out, [1.0, -2.0, 0.0]);
    dequantize(Format::F16, 3, &[0, 0x3c, 0, 0xc0, 1, 0], &mut out);
    assert_eq!(out, [1.0, -2.0, 2f32.powi(-24)]);
    dequantize(Format::BF16, 1, &[0x80, 0x3f, 0, 0xc0, 0, 0], &mut out);
    assert_eq!(out, [1.0, -2.0, 0.0]);
    // Two blocks of two, the second one short: 1 and -2 times 0.5, 0.0625 times 4.
    let bytes = [0, 0, 0, 0x3f, 0x38, 0xc0, 0, 0, 0x80, 0x40, 0x18, 0];
    dequantize(Format::F8E4M3 { block: 2 }, 3, &bytes, &mut out);
    assert_eq!(out, [0.5, -1.0, 0.25]);
}

#[test]
fn every_e4m3_is_read() {
    let mut bytes = 1f32.to_le_bytes().to_vec();
    bytes.extend(0..=255u8);
    let mut out = [0.0; 256];
    dequantize(Format::F8E4M3 { block: 256 }, 256, &bytes, &mut out);
    for (bits, is) in out.iter().enumerate() {
        let (exponent, fraction) = ((bits >> 3 & 15) as i32, (bits & 7) as f32);
        let magnitude = match exponent {
            0 => fraction * 2f32.powi(-9),
            15 if fraction == 7.0 => f32::NAN,
            _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
        };
        let ought = if bits & 128 == 0 { magnitude } else { -magnitude };
        assert!(is.to_bits() == ought.to_bits() || is.is_nan() && ought.is_nan(), "{bits:#04x}: {is} for {ought}");
    }
}

#[test]
fn every_power_of_two_is_read() {
    for e in 0..=255 {
        let mut block = [0; 17];
        // Elements 0.5 and -6.
        (block[0], block[1]) = (e, 0xf1);
        let mut out = [f32::NAN; 32];
        dequantize(Format::Mxfp4, 32, &block, &mut out);
        let power = 2f64.powi(i32::from(e) - 127);
        match e {
            255 => assert!(out.iter().all(|value| value.is_nan())),
            _ => assert_eq!((out[0], out[16], out[1]), ((power * 0.5) as f32, (power * -6.0) as f32, 0.0), "{e}"),
        }
    }
}

#[test]
fn quantised_values_are_close() {
    let x: Vec<_> = Random::new(11).floats(640);
    for (format, steps) in [(Format::Q8_0, 127.0), (Format::Q4_0, 8.0)] {
        let (mut bytes, mut back) = (Vec::new(), vec![0.0; 640]);
        quantize(format, &x, &mut bytes).unwrap();
        dequantize(format, 320, &bytes, &mut back);
        for (x, back) in x.chunks_exact(32).zip(back.chunks_exact(32)) {
            let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            // Half a step and the rounding of the scale; Q4_0 has one step less on the side away from the largest.
            let most = largest / steps * if format == Format::Q8_0 { 0.51 } else { 1.01 };
            assert!(x.iter().zip(back).all(|(x, back)| (x - back).abs() <= most + largest * 5e-4), "{format}");
        }
    }
}

#[test]
fn quantisers_know_their_limits() {
    let mut out = Vec::new();
    assert_eq!(quantize(Format::Q4K, &[0.0; 256], &mut out), Err(QuantizeError::Format(Format::Q4K)));
    assert_eq!(quantize(Format::Q8_0, &[0.0; 33], &mut out), Err(QuantizeError::Length(33)));
    assert!(out.is_empty());
    for format in [Format::Q8_0, Format::Q4_0] {
        quantize(format, &[0.0; 32], &mut out).unwrap();
        let mut back = [1.0; 32];
        dequantize(format, 32, &out, &mut back);
        assert_eq!(back, [0.0; 32]);
        out.clear();
    }
    // The value of largest magnitude is a code itself, and its opposite is one short of it.
    let mut x = [0.0; 32];
    (x[0], x[16], x[31]) = (-8.0, 8.0, 3.0);
    quantize(Format::Q4_0, &x, &mut out).unwrap();
    let mut back = [0.0; 32];
    dequantize(Format::Q4_0, 32, &out, &mut back);
    assert_eq!((back[0], back[1], back[16], back[31]), (-8.0, 0.0, 7.0, 3.0));
}

#[test]
fn embeddings_are_rows() {
    let table = Matrices::new(&mut Random::new(12), Format::Q4K, [1, 50, 512]);
    let mut all = vec![0.0; 50 * 512];
    dequantize(Format::Q4K, 512, &table.stored, &mut all);
    for count in [0, 1, 100] {
        let ids: Vec<_> = (0..count).map(|i| i * 7 % 50).collect();
        let mut out = vec![f32::NAN; ids.len() * 512];
        embed(&table.weights(), &ids, &mut out);
        let ought = ids.iter().flat_map(|id| bits(&all[*id as usize * 512..][..512])).collect::<Vec<_>>();
        assert!(bits(&out) == ought);
    }
}
