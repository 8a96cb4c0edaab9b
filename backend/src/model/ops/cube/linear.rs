//! Products with matrices that stay in their own bytes, and their rows as plain numbers.
//!
//! A cube computes a few outputs of a few rows: its units stride over the eights of the weights' rows, so that
//! neighbours read neighbouring words and every word is read once for all rows.

use cubecl::prelude::*;

use super::{
    fold::{Fold, Units, fold},
    unpack::{Eight, Packed, Quad, Row, first_quad, unpack},
};

/// What a cube computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    pub packed: Packed,
    /// Outputs.
    pub outputs: usize,
    /// Rows of activations.
    pub rows: usize,
    pub units: Units,
}

/// Sizes of a product.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Sizes {
    /// Rows of activations.
    pub n: usize,
    /// Rows and columns of a matrix.
    pub rows: usize,
    pub cols: usize,
    /// Eights of a row.
    pub eights: usize,
}

/// The rows of activations that a cube works on.
#[derive(CubeType)]
struct Rows {
    index: Array<usize>,
    /// Whether a row is multiplied with the matrix at hand.
    taken: Array<bool>,
}

/// Where a cube's outputs lie.
#[derive(CubeType, Clone, Copy)]
struct Outputs {
    /// Matrix of the stack.
    matrix: usize,
    first: usize,
}

/// `y = x w^T`; `x` has rows of whole eights, filled up with zeros.
#[cube(launch_unchecked)]
pub fn linear(x: &[Quad], words: &[u32], y: &mut [f32], sizes: Sizes, #[comptime] tile: Tile) {
    let tiles = sizes.rows.div_ceil(tile.outputs);
    let (first, group) = (CUBE_POS % tiles * tile.outputs, CUBE_POS / tiles);
    let mut rows = no_rows(tile);
    #[unroll]
    for r in 0..tile.rows {
        rows.index[r] = group * tile.rows + r;
        rows.taken[r] = true;
    }
    let mut sums = zeros(tile);
    add_products(&mut sums, x, words, &rows, &Outputs { matrix: 0usize, first }, &sizes, tile);
    write(&sums, y, &rows, first, &sizes, tile);
}

/// As [`linear`], each row with a matrix of the stack. Rows are taken in the order of `order`, in which those of one
/// matrix are neighbours: what a cube's rows share is read once.
#[cube(launch_unchecked)]
pub fn linear_experts(
    x: &[Quad],
    words: &[u32],
    experts: &[i32],
    order: &[u32],
    y: &mut [f32],
    sizes: Sizes,
    #[comptime] tile: Tile,
) {
    let tiles = sizes.rows.div_ceil(tile.outputs);
    let (first, group) = (CUBE_POS % tiles * tile.outputs, CUBE_POS / tiles);
    let mut rows = no_rows(tile);
    let mut matrices = Array::<usize>::new(tile.rows);
    #[unroll]
    for r in 0..tile.rows {
        let place = group * tile.rows + r;
        let row = order[min(place, sizes.n - 1)] as usize;
        matrices[r] = experts[row] as usize;
        rows.index[r] = select(place < sizes.n, row, sizes.n);
    }
    let mut sums = zeros(tile);
    for r in 0..tile.rows {
        // Places beyond the last row repeat it.
        let place = group * tile.rows + r;
        let matrix = experts[order[min(place, sizes.n - 1)] as usize] as usize;
        let before = experts[order[min(place - min(place, 1), sizes.n - 1)] as usize] as usize;
        if r == 0 || matrix != before {
            #[unroll]
            for s in 0..tile.rows {
                rows.taken[s] = matrices[s] == matrix;
            }
            add_products(&mut sums, x, words, &rows, &Outputs { matrix, first }, &sizes, tile);
        }
    }
    write(&sums, y, &rows, first, &sizes, tile);
}

#[cube]
fn no_rows(#[comptime] tile: Tile) -> Rows {
    Rows { index: Array::<usize>::new(tile.rows), taken: Array::<bool>::new(tile.rows) }
}

#[cube]
fn zeros(#[comptime] tile: Tile) -> Array<Quad> {
    let mut sums = Array::<Quad>::new(comptime!(tile.rows * tile.outputs));
    #[unroll]
    for i in 0..comptime!(tile.rows * tile.outputs) {
        sums[i] = Quad::new(0.0);
    }
    sums
}

/// Adds this unit's share of the products of those rows that are taken.
#[cube]
fn add_products(
    sums: &mut Array<Quad>,
    x: &[Quad],
    words: &[u32],
    rows: &Rows,
    outputs: &Outputs,
    sizes: &Sizes,
    #[comptime] tile: Tile,
) {
    let mut eight = UNIT_POS as usize;
    while eight < sizes.eights {
        let quad = first_quad(eight, tile.packed);
        let mut xs = Array::<Quad>::new(comptime!(2 * tile.rows));
        #[unroll]
        for r in 0..tile.rows {
            let at = min(rows.index[r], sizes.n - 1) * (2 * sizes.eights) + quad;
            let (low, high) = (x[at], x[at + comptime!(tile.packed.apart())]);
            xs[comptime!(2 * r)] = select(rows.taken[r], low, Quad::new(0.0));
            xs[comptime!(2 * r + 1)] = select(rows.taken[r], high, Quad::new(0.0));
        }
        #[unroll]
        for o in 0..tile.outputs {
            let index = outputs.matrix * sizes.rows + min(outputs.first + o, sizes.rows - 1);
            let Eight { low, high } = unpack(words, &Row { index, cols: sizes.cols }, eight, tile.packed);
            #[unroll]
            for r in 0..tile.rows {
                let i = comptime!(r * tile.outputs + o);
                sums[i] += low * xs[comptime!(2 * r)] + high * xs[comptime!(2 * r + 1)];
            }
        }
        eight += tile.units.count;
    }
}

/// Adds up the units' sums and writes them as outputs `first` and on.
#[cube]
fn write(sums: &Array<Quad>, y: &mut [f32], rows: &Rows, first: usize, sizes: &Sizes, #[comptime] tile: Tile) {
    let len = comptime!(tile.rows * tile.outputs);
    let mut values = Array::<f32>::new(len);
    #[unroll]
    for i in 0..len {
        values[i] = sums[i].vector_sum();
    }
    let mut shared = Shared::<[f32]>::new_slice(comptime!(tile.units.places(len)));
    fold(&values, &mut shared, Fold::Sum, tile.units);
    let unit = UNIT_POS as usize;
    #[unroll]
    for r in 0..tile.rows {
        let output = first + unit % tile.outputs;
        if unit / tile.outputs == r && output < sizes.rows && rows.index[r] < sizes.n {
            y[rows.index[r] * sizes.rows + output] = shared[unit];
        }
    }
}

/// The places of rows in the order of their experts: `order[place] = row`.
#[cube(launch_unchecked)]
#[allow(clippy::needless_range_loop)]
pub fn order(experts: &[i32], order: &mut [u32], n: usize) {
    let row = ABSOLUTE_POS;
    if row < n {
        let mine = experts[row];
        let mut place = 0usize;
        for other in 0..n {
            let theirs = experts[other];
            if theirs < mine || (theirs == mine && other < row) {
                place += 1;
            }
        }
        order[place] = row as u32;
    }
}

/// Rows `ids`, each filled up to whole eights: a unit an eight.
#[cube(launch_unchecked)]
pub fn embed(words: &[u32], ids: &[i32], out: &mut [Quad], sizes: Sizes, #[comptime] packed: Packed) {
    if ABSOLUTE_POS < sizes.n * sizes.eights {
        let row = ABSOLUTE_POS / sizes.eights;
        put(words, min(ids[row] as usize, sizes.rows - 1), row, out, &sizes, packed);
    }
}

/// `n` rows from `first` on, likewise.
#[cube(launch_unchecked)]
pub fn unpack_rows(words: &[u32], first: usize, out: &mut [Quad], sizes: Sizes, #[comptime] packed: Packed) {
    if ABSOLUTE_POS < sizes.n * sizes.eights {
        let row = ABSOLUTE_POS / sizes.eights;
        put(words, first + row, row, out, &sizes, packed);
    }
}

#[cube]
fn put(words: &[u32], index: usize, row: usize, out: &mut [Quad], sizes: &Sizes, #[comptime] packed: Packed) {
    let eight = ABSOLUTE_POS % sizes.eights;
    let Eight { low, high } = unpack(words, &Row { index, cols: sizes.cols }, eight, packed);
    let at = row * (2 * sizes.eights) + first_quad(eight, packed);
    out[at] = low;
    out[at + comptime!(packed.apart())] = high;
}
