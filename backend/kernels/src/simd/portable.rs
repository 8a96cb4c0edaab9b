//! Plain Rust, in loops that compilers turn into vector code where the target has any.

use super::lanes::Words;
use super::{BLOCK, CHAIN, IntTile, LANES, MostRows, Quantised, Rows, Simd, steps};

pub(super) const MOST_ROWS: MostRows = MostRows { ints: Portable::ROWS, floats: 4 };

pub(crate) struct Portable;

impl Simd for Portable {
    type Lanes = Words;

    const ROWS: usize = 4;

    const SUMS: usize = 1;

    fn columns(rows: &Rows, at: usize, columns: &mut [[u32; LANES]]) {
        for (lane, row) in rows.lanes.iter().enumerate() {
            let (words, rest) = row[at..].as_chunks();
            for (column, word) in columns.iter_mut().zip(words) {
                column[lane] = u32::from_le_bytes(*word);
            }
            if let Some(column) = columns.get_mut(words.len()) {
                let mut word = [0; 4];
                word[..rest.len()].copy_from_slice(rest);
                column[lane] = u32::from_le_bytes(word);
            }
        }
    }

    fn quantise(x: &[f32; BLOCK]) -> Quantised {
        /// Adding it leaves an integer in the low bits of the sum.
        const ROUND: f32 = 12_582_912.0;
        // As integers, magnitudes have the order of the numbers, and NaN is above them all.
        let largest = x.iter().fold(0, |largest, x| largest.max(x.abs().to_bits()));
        let (scale, steps) = match steps(f32::from_bits(largest)) {
            Ok(steps) => steps,
            Err(nothing) => return nothing,
        };
        let mut bytes = [[0; 4]; BLOCK / 4];
        for (byte, x) in bytes.as_flattened_mut().iter_mut().zip(x) {
            *byte = (x * steps + ROUND).to_bits() as i8;
        }
        let sum = |half: &[[i8; 4]]| half.as_flattened().iter().map(|byte| i32::from(*byte)).sum();
        Quantised { scale, bytes, sums: [sum(&bytes[..4]), sum(&bytes[4..])] }
    }
}

pub(super) fn int_tile(tile: &IntTile, acc: &mut [[f32; LANES]]) {
    let (rows, words) = (acc.len(), tile.group / 4);
    for (group, scale) in tile.scale.iter().enumerate() {
        for (n, acc) in acc.iter_mut().enumerate() {
            let mut dot = [tile.x.offset[group * rows + n]; LANES];
            for word in group * words..(group + 1) * words {
                let x = tile.x.bytes[word * rows + n].map(i32::from);
                for (dot, codes) in dot.iter_mut().zip(&tile.codes[word]) {
                    let codes = codes.to_le_bytes().map(i32::from);
                    *dot += codes[0] * x[0] + codes[1] * x[1] + codes[2] * x[2] + codes[3] * x[3];
                }
            }
            let x_scale = tile.x.scale[group * tile.group / 32 * rows + n];
            for ((acc, dot), scale) in acc.iter_mut().zip(dot).zip(scale) {
                *acc = (dot as f32).mul_add(scale * x_scale, *acc);
            }
            if let Some(min) = tile.min {
                for (acc, min) in acc.iter_mut().zip(&min[group]) {
                    *acc = min.mul_add(tile.x.sum[group * rows + n], *acc);
                }
            }
        }
    }
}

pub(super) fn float_tile(w: &[[f32; LANES]], x: &[f32], acc: &mut [[f32; LANES]]) {
    let rows = acc.len();
    for (w, x) in w.chunks(CHAIN).zip(x.chunks(CHAIN * rows.max(1))) {
        for (n, acc) in acc.iter_mut().enumerate() {
            let mut sums = [0f32; LANES];
            for (w, x) in w.iter().zip(x[n..].iter().step_by(rows)) {
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = w.mul_add(*x, *sum);
                }
            }
            for (acc, sum) in acc.iter_mut().zip(sums) {
                *acc += sum;
            }
        }
    }
}
