//! Products with matrices in every format, and their rows.

use burn::tensor::Device;
use littoral_kernels::{Arithmetic, Format, dequantize};
use rand::Rng;

use super::{Expected, F32, Source, assert_close, assert_within, ints, tensor, values};
use crate::model::ops::{self, Matrix};

/// Formats and the number of columns: whole blocks, and where a format allows it rows that end anywhere.
const CASES: [(Format, usize); 23] = [
    (Format::F32, 64),
    (Format::F32, 13),
    (Format::F16, 72),
    (Format::F16, 12),
    (Format::F16, 13),
    (Format::BF16, 40),
    (Format::BF16, 27),
    (Format::F8E4M3 { block: 128 }, 256),
    (Format::F8E4M3 { block: 16 }, 44),
    (Format::F8E4M3 { block: 128 }, 130),
    (Format::F8E4M3 { block: 6 }, 33),
    (Format::Mxfp4, 96),
    (Format::Q4_0, 32),
    (Format::Q4_0, 96),
    (Format::Q4_1, 64),
    (Format::Q5_0, 96),
    (Format::Q5_1, 64),
    (Format::Q8_0, 96),
    (Format::Q2K, 256),
    (Format::Q3K, 512),
    (Format::Q4K, 256),
    (Format::Q5K, 512),
    (Format::Q6K, 512),
];

/// A matrix or a stack, and the numbers it stands for.
struct Weights {
    matrix: Matrix,
    bytes: Vec<u8>,
    plain: Vec<f32>,
}

impl Weights {
    /// `stack` matrices of random bytes below scales of all sizes.
    fn new(format: Format, stack: usize, rows: usize, cols: usize, source: &mut Source) -> Self {
        let count = stack * rows;
        let row_bytes = format.row_bytes(cols).expect("whole blocks");
        let mut bytes: Vec<u8> = (0..count * row_bytes).map(|_| source.0.random()).collect();
        for (i, row) in bytes.chunks_exact_mut(row_bytes).enumerate() {
            // Every third row is so small that its scales are subnormal in binary16.
            let size = if i % 3 == 2 { 1e-6 } else { 1.0 };
            match format {
                Format::F32 | Format::F16 | Format::BF16 => numbers(format, size, row, source),
                _ => row.chunks_exact_mut(format.block_bytes()).for_each(|block| scales(format, size, block, source)),
            }
        }
        let mut plain = vec![0.0; count * cols];
        dequantize(format, cols, &bytes, &mut plain);
        assert!(plain.iter().all(|x| x.is_finite()), "{format}");
        Self { matrix: Matrix { format, rows, cols, arithmetic: Arithmetic::Exact }, bytes, plain }
    }

    /// What the product of a row is with one of the stack's matrices.
    fn times(&self, matrix: usize, x: &[f32]) -> Vec<Expected> {
        let Matrix { rows, cols, .. } = self.matrix;
        let weights = self.plain[matrix * rows * cols..][..rows * cols].chunks_exact(cols);
        let product = |row: &[f32]| {
            let terms = row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            Expected { value: terms.clone().sum(), size: terms.map(f64::abs).sum() }
        };
        weights.map(product).collect()
    }

    fn what(&self, n: usize) -> String {
        format!("{n} rows by {} x {} in {}", self.matrix.rows, self.matrix.cols, self.matrix.format)
    }
}

fn numbers(format: Format, size: f32, row: &mut [u8], source: &mut Source) {
    let width = format.block_bytes();
    for out in row.chunks_exact_mut(width) {
        let number = source.floats(1)[0] * size;
        match format {
            Format::F16 => out.copy_from_slice(&half::f16::from_f32(number).to_le_bytes()),
            Format::BF16 => out.copy_from_slice(&half::bf16::from_f32(number).to_le_bytes()),
            _ => out.copy_from_slice(&number.to_le_bytes()),
        }
    }
}

/// Replaces what could be infinite or not a number.
fn scales(format: Format, size: f32, block: &mut [u8], source: &mut Source) {
    let halves: &[usize] = match format {
        Format::F8E4M3 { .. } => {
            let scale = source.floats(1)[0] * size;
            block[..4].copy_from_slice(&scale.to_le_bytes());
            block[4..].iter_mut().filter(|byte| **byte & 0x7f == 0x7f).for_each(|byte| *byte -= 1);
            return;
        }
        Format::Mxfp4 => {
            block[0] = source.0.random_range(100..140);
            return;
        }
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q6K => &[208],
        _ => &[0],
    };
    for at in halves {
        let scale = half::f16::from_f32(source.floats(1)[0] * size);
        block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
    }
}

pub fn rows(device: &Device) {
    let source = &mut Source::new(1);
    for (format, cols) in CASES {
        let weights = Weights::new(format, 1, 11, cols, source);
        let ids = [10, 0, 3, 3, 8];
        let words = ops::upload(&weights.bytes, &weights.matrix, device);
        let found = values(ops::embed(&words, ints(&ids, device), weights.matrix));
        // A scale times a code may be rounded before a minimum is added.
        let expected: Vec<Expected> = ids
            .iter()
            .flat_map(|id| &weights.plain[*id as usize * cols..][..cols])
            .map(|value| Expected { value: f64::from(*value), size: f64::from(value.abs()) + 1e-7 })
            .collect();
        assert_close(&found, &expected, &weights.what(ids.len()));
    }
}

/// The product of `n` rows with a matrix.
fn check(n: usize, weights: &Weights, source: &mut Source, device: &Device, rounding: f64) {
    let x = source.floats(n * weights.matrix.cols);
    let words = ops::upload(&weights.bytes, &weights.matrix, device);
    let found = ops::linear(tensor(&x, [n, weights.matrix.cols], device), &words, weights.matrix);
    assert_eq!(found.dims(), [n, weights.matrix.rows]);
    let expected: Vec<Expected> = x.chunks_exact(weights.matrix.cols).flat_map(|x| weights.times(0, x)).collect();
    assert_within(rounding, &values(found), &expected, &weights.what(n));
}

pub fn products(device: &Device) {
    let source = &mut Source::new(2);
    for (format, cols) in CASES {
        check(3, &Weights::new(format, 1, 9, cols, source), source, device, F32);
    }
    // One row and one output; more outputs than one cube has; units with several eights; more rows than share a cube.
    for (n, rows, cols) in [(1, 1, 32), (1, 2050, 32), (2, 2050, 32), (1, 3, 8224), (5, 1025, 32), (11, 33, 64)] {
        check(n, &Weights::new(Format::Q4_0, 1, rows, cols, source), source, device, F32);
    }
}

/// A stack's outputs side by side.
pub fn stacks(device: &Device) {
    let source = &mut Source::new(5);
    for n in [1, 40] {
        let weights = Weights::new(Format::Q8_0, 3, 5, 64, source);
        let x = source.floats(n * 64);
        let words = ops::upload(&weights.bytes, &weights.matrix, device);
        let found = ops::linear(tensor(&x, [n, 64], device), &words, weights.matrix);
        assert_eq!(found.dims(), [n, 15]);
        let row = |x: &[f32]| (0..3).flat_map(|matrix| weights.times(matrix, x)).collect::<Vec<_>>();
        let expected: Vec<Expected> = x.chunks_exact(64).flat_map(row).collect();
        assert_close(&values(found), &expected, &weights.what(n));
    }
}

pub fn many_rows(device: &Device, rounding: f64) {
    let source = &mut Source::new(3);
    for (format, cols) in [(Format::Q4_1, 64), (Format::F8E4M3 { block: 16 }, 44), (Format::Q6K, 256)] {
        check(40, &Weights::new(format, 1, 37, cols, source), source, device, rounding);
    }
}

pub fn experts(device: &Device) {
    let source = &mut Source::new(4);
    for (n, stack) in [(1, 3), (5, 4), (9, 4), (40, 3)] {
        for (format, cols) in [(Format::F8E4M3 { block: 16 }, 40), (Format::Mxfp4, 64), (Format::Q4K, 256)] {
            let weights = Weights::new(format, stack, 5, cols, source);
            // Some experts have no row, others several.
            let experts: Vec<i32> = (0..n).map(|_| source.0.random_range(0..stack as i32)).collect();
            let x = source.floats(n * cols);
            let words = ops::upload(&weights.bytes, &weights.matrix, device);
            let x_tensor = tensor(&x, [n, cols], device);
            let found = ops::linear_experts(x_tensor, &words, ints(&experts, device), weights.matrix);
            let rows = x.chunks_exact(cols).zip(&experts);
            let expected: Vec<Expected> = rows.flat_map(|(x, expert)| weights.times(*expert as usize, x)).collect();
            assert_close(&values(found), &expected, &weights.what(n));
        }
    }
}
