//! The small operations: norms, gates, rotations, writes to the cache.

use cubecl::prelude::*;

use super::fold::{Fold, Units, fold};

/// A row a cube.
#[cube(launch_unchecked)]
pub fn rms_norm<N: Size>(
    x: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    y: &mut [Vector<f32, N>],
    rows: usize,
    eps: f32,
    #[comptime] units: Units,
) {
    let cols = weight.len();
    // Cubes beyond the last row do it over, and write nothing.
    let start = min(CUBE_POS, rows - 1) * cols;
    let mut squares = Vector::<f32, N>::new(0.0);
    let mut col = UNIT_POS as usize;
    while col < cols {
        let value = x[start + col];
        squares += value * value;
        col += units.count;
    }
    let mut values = Array::<f32>::new(1usize);
    values[0] = squares.vector_sum();
    let mut shared = Shared::<[f32]>::new_slice(comptime!(units.places(1)));
    fold(&values, &mut shared, Fold::Sum, units);
    let len = cols * x.vector_size();
    let scale = 1.0 / (shared[0] / f32::cast_from(len) + eps).sqrt();
    if CUBE_POS < rows {
        let mut col = UNIT_POS as usize;
        while col < cols {
            y[start + col] = x[start + col] * Vector::new(scale) * weight[col];
            col += units.count;
        }
    }
}

/// `silu(gate) * up`, a unit an element; `width` is the number of gates of a row.
#[cube(launch_unchecked)]
pub fn swiglu(gate_up: &[f32], y: &mut [f32], width: usize, limit: f32, #[comptime] limited: bool) {
    if ABSOLUTE_POS < y.len() {
        let at = ABSOLUTE_POS / width * 2 * width + ABSOLUTE_POS % width;
        let (mut gate, mut up) = (gate_up[at], gate_up[at + width]);
        if comptime!(limited) {
            gate = min(gate, limit);
            up = max(min(up, limit), -limit);
        }
        // The exponential of a large number might not be infinity.
        let small = (-gate.abs()).exp();
        y[ABSOLUTE_POS] = gate * select(gate < 0.0, small, 1.0) / (1.0 + small) * up;
    }
}

/// Where the pairs are that [`rotate`] turns.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Pairs {
    pub heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// First rotated element of a head.
    pub start: usize,
    /// Pairs of a head.
    pub pairs: usize,
}

/// Turns pairs where they lie, a unit a pair: of `cos` and `sin` a row belongs to all heads of a row of `x`.
#[cube(launch_unchecked)]
pub fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32], rows: usize, pairs: Pairs, #[comptime] interleaved: bool) {
    if ABSOLUTE_POS < rows * pairs.heads * pairs.pairs {
        let (head, pair) = (ABSOLUTE_POS / pairs.pairs, ABSOLUTE_POS % pairs.pairs);
        let angle = head / pairs.heads * pairs.pairs + pair;
        let start = head * pairs.dim + pairs.start;
        let (first, second) = if comptime!(interleaved) {
            (start + 2 * pair, start + 2 * pair + 1)
        } else {
            (start + pair, start + pair + pairs.pairs)
        };
        let (a, b) = (x[first], x[second]);
        let (cos, sin) = (cos[angle], sin[angle]);
        x[first] = a * cos - b * sin;
        x[second] = b * cos + a * sin;
    }
}

/// Writes rows over those of the cache, which are `stride` apart, a unit a vector.
#[cube(launch_unchecked)]
pub fn store<N: Size>(
    cache: &mut [Vector<f32, N>],
    rows: &[Vector<f32, N>],
    slots: &[i32],
    width: usize,
    stride: usize,
) {
    if ABSOLUTE_POS < rows.len() {
        let slot = slots[ABSOLUTE_POS / width] as usize;
        cache[slot * stride + ABSOLUTE_POS % width] = rows[ABSOLUTE_POS];
    }
}
