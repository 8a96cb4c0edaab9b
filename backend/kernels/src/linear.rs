//! Activations times weights.

mod parts;
mod product;
#[cfg(test)]
pub(crate) mod tests;

use std::cell::Cell;

use crate::activation::{FloatTiles, IntTiles, Rows, Tile, cut};
use crate::blocks::Codes;
use crate::cells::Cells;
use crate::{Cpu, Weights, simd};
use product::{Activations, Product};

/// How products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// In f32 throughout, on the values that [`crate::dequantize`] gives.
    Exact,
    /// Activations become bytes in blocks of 32, with a scale of a 127th of the largest; products of a block are summed
    /// up as integers. Weights that are floating-point numbers are computed with exactly.
    Fast,
}

/// `y = x wᵀ + bias`: `x` is `[n, w.cols]`, `y` is `[n, outputs]`, and `bias` one number per output. The outputs are the
/// rows of `w`, matrix after matrix if it has several. A row of `y` depends, to the bit, on its row of `x` alone: not on `n`, nor on the threads or their number.
///
/// # Panics
/// If lengths do not fit.
pub fn linear(x: &[f32], w: &Weights, bias: Option<&[f32]>, arithmetic: Arithmetic, y: &mut [f32]) {
    let n = x.len().checked_div(w.cols).unwrap_or(0);
    assert_eq!(x.len(), n * w.cols, "linear: the activations are not rows of {} columns", w.cols);
    let outputs = w.outputs();
    assert_eq!(y.len(), n * outputs, "linear: the output for {n} rows of activations and {outputs} of weights");
    assert!(bias.is_none_or(|bias| bias.len() == outputs), "linear: the bias is not one of {outputs} outputs");
    Cpu::with(|cpu| {
        let mut tiles = Vec::new();
        cut(0, 0, n, tile_rows(cpu, w, arithmetic), &mut tiles);
        let y = Outputs { panels: w.matrices() * w.panels(), count: outputs, bias, y };
        compute(cpu, w, arithmetic, &Rows { x, cols: w.cols, order: None, tiles: &tiles }, y);
    });
}

/// As [`linear`], where each row of `x` is multiplied with one of the matrices, which `experts` names. Each matrix is read once, however many rows it has.
///
/// # Panics
/// If lengths do not fit, or an expert is not one of the matrices.
pub fn linear_experts(x: &[f32], w: &Weights, experts: &[i32], arithmetic: Arithmetic, y: &mut [f32]) {
    let n = experts.len();
    let matrices = w.matrices();
    assert_eq!(x.len(), n * w.cols, "experts: the activations for {n} rows of {} columns", w.cols);
    assert_eq!(y.len(), n * w.rows, "experts: the output for {n} rows of activations and {} of weights", w.rows);
    let wrong = experts.iter().find(|expert| usize::try_from(**expert).map_or(true, |expert| expert >= matrices));
    assert!(wrong.is_none(), "experts: {wrong:?} is none of {matrices} experts");
    Cpu::with(|cpu| {
        let (order, tiles) = by_expert(experts, tile_rows(cpu, w, arithmetic));
        let y = Outputs { panels: w.panels(), count: w.rows, bias: None, y };
        compute(cpu, w, arithmetic, &Rows { x, cols: w.cols, order: Some(&order), tiles: &tiles }, y);
    });
}

/// Rows in the order of their experts, those of an expert as they came, and their tiles.
fn by_expert(experts: &[i32], largest: usize) -> (Vec<u32>, Vec<Tile>) {
    let mut order: Vec<u32> = (0..experts.len() as u32).collect();
    order.sort_by_key(|row| experts[*row as usize]);
    let (mut tiles, mut first) = (Vec::new(), 0);
    for same in order.chunk_by(|a, b| experts[*a as usize] == experts[*b as usize]) {
        cut(experts[same[0] as usize] as usize, first, same.len(), largest, &mut tiles);
        first += same.len();
    }
    (order, tiles)
}

/// What the activations become, as bytes for these codes; none if they stay floats.
fn codes(w: &Weights, arithmetic: Arithmetic) -> Option<Codes> {
    w.format.codes().filter(|_| arithmetic == Arithmetic::Fast)
}

/// Rows of a tile at most.
fn tile_rows(cpu: &Cpu, w: &Weights, arithmetic: Arithmetic) -> usize {
    let most = simd::most_rows(cpu.level());
    if codes(w, arithmetic).is_some() { most.ints } else { most.floats }
}

thread_local! {
    /// Room for activations, kept from call to call.
    static ROOM: Cell<(IntTiles, FloatTiles)> = Cell::default();
}

/// What is computed.
struct Outputs<'a> {
    /// Panels that each row meets.
    panels: usize,
    /// Of each row.
    count: usize,
    bias: Option<&'a [f32]>,
    y: &'a mut [f32],
}

fn compute(cpu: &Cpu, w: &Weights, arithmetic: Arithmetic, rows: &Rows, out: Outputs) {
    let (mut ints, mut floats) = ROOM.take();
    let activations = match codes(w, arithmetic) {
        Some(codes) => {
            ints.fill(cpu, rows, codes);
            Activations::Ints(&ints, codes)
        }
        None => Activations::Floats(floats.fill(cpu, rows)),
    };
    let parts = parts::plan(cpu.pool.threads(), w.cols, out.panels, rows.tiles);
    let Outputs { count, bias, y, .. } = out;
    let product = Product { level: cpu.level(), w, outputs: count, bias, rows, activations, y: Cells::new(y) };
    cpu.pool.run(parts.len(), |part| product.compute(&parts[part]));
    ROOM.set((ints, floats));
}
