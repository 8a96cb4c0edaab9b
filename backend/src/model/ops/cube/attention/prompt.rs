//! Attention of many rows of one sequence: its keys are gathered, and the device's matrix product does the rest.

use burn::{
    backend::ops::FloatTensorOps,
    tensor::{Shape, Slice},
};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;
use littoral_kernels::AttentionShape;

use super::super::{
    super::Span,
    cubes,
    fold::{Fold, Units, fold},
    upload,
};

/// Queries that are scored together.
const QUERIES: usize = 128;
/// Scores there are at a time, at most, unless those of a single query are more.
const SCORES: usize = 1 << 25;

/// The result of a span's rows, written over those of `out`.
pub fn attend(
    q: &CubeTensor,
    k: &CubeTensor,
    v: &CubeTensor,
    span: &Span,
    shape: &AttentionShape,
    mut out: CubeTensor,
) -> CubeTensor {
    let AttentionShape { heads, kv_heads, k_dim, v_dim, block_tokens, .. } = *shape;
    let group = heads / kv_heads;
    let window = shape.window.unwrap_or(usize::MAX);
    let first_seen = |position: usize| (position + 1).saturating_sub(window);

    let base = first_seen(span.start);
    let slot = |t: usize| span.blocks[t / block_tokens] * block_tokens as i32 + (t % block_tokens) as i32;
    let slots: Vec<i32> = (base..span.len()).map(slot).collect();
    let gather = |cache: &CubeTensor, dim: usize| {
        let rows = CubeBackend::float_select(cache.clone(), 0, upload(cache, &slots));
        let rows = sliced(rows, &[0..slots.len(), 0..kv_heads * dim]);
        CubeBackend::float_reshape(rows, Shape::new([slots.len(), kv_heads, dim]))
    };
    let k = CubeBackend::float_permute(gather(k, k_dim), &[1, 2, 0]);
    let v = CubeBackend::float_permute(gather(v, v_dim), &[1, 0, 2]);

    let together = (SCORES / (heads * slots.len())).clamp(1, QUERIES);
    for first in (0..span.rows).step_by(together) {
        let queries = together.min(span.rows - first);
        let position = span.start + first;
        let keys = first_seen(position) - base..position + queries - base;
        let rows = span.row + first..span.row + first + queries;
        // The query heads of a key head come below each other: [kv_heads, group * queries, k_dim].
        let q = sliced(q.clone(), &[rows.clone(), 0..heads, 0..k_dim]);
        let q = CubeBackend::float_reshape(q, Shape::new([queries, kv_heads, group, k_dim]));
        let q = CubeBackend::float_permute(q, &[1, 2, 0, 3]);
        let q = CubeBackend::float_reshape(q, Shape::new([kv_heads, group * queries, k_dim]));
        let scores = CubeBackend::float_matmul(q, sliced(k.clone(), &[0..kv_heads, 0..k_dim, keys.clone()]));
        let seen = Seen { queries, newest: position - base - keys.start, window, scale: shape.scale };
        let scores = softmax_in_place(scores, &seen);
        let y = CubeBackend::float_matmul(scores, sliced(v.clone(), &[0..kv_heads, keys, 0..v_dim]));
        let y = CubeBackend::float_reshape(y, Shape::new([kv_heads, group, queries, v_dim]));
        let y = CubeBackend::float_permute(y, &[2, 0, 1, 3]);
        let y = CubeBackend::float_reshape(y, Shape::new([queries, heads, v_dim]));
        out = CubeBackend::float_slice_assign(out, &slices(&[rows, 0..heads, 0..v_dim]), y);
    }
    out
}

fn slices(ranges: &[std::ops::Range<usize>]) -> Vec<Slice> {
    ranges.iter().map(|range| Slice::from(range.clone())).collect()
}

/// A part of a tensor, or all of it.
fn sliced(tensor: CubeTensor, ranges: &[std::ops::Range<usize>]) -> CubeTensor {
    let whole = tensor.meta.shape().iter().zip(ranges).all(|(size, range)| *range == (0..*size));
    if whole { tensor } else { CubeBackend::float_slice(tensor, &slices(ranges)) }
}

/// What of the scores' columns each of their rows sees: with its query `i`, those up to `newest + i`.
struct Seen {
    queries: usize,
    newest: usize,
    window: usize,
    scale: f32,
}

/// `scores` is `[batch, rows, keys]`; row `r` belongs to query `r % queries`.
fn softmax_in_place(scores: CubeTensor, seen: &Seen) -> CubeTensor {
    let (shape, strides) = (scores.meta.shape(), scores.meta.strides());
    // Rows may be padded, but must follow each other.
    let scores = match strides[2] == 1 && strides[0] == shape[1] * strides[1] {
        true => scores,
        false => into_contiguous(scores),
    };
    let [batch, rows, keys] = scores.meta.shape().dims();
    let units = Units::new(&scores.client, keys.div_ceil(4), 256);
    let sizes = SizesLaunch::new(
        batch * rows,
        keys,
        scores.meta.strides()[1],
        seen.queries,
        seen.newest,
        seen.window.min(u32::MAX as usize),
        seen.scale,
    );
    // SAFETY: `softmax` writes the keys of `batch * rows` rows, which are what `scores` has.
    unsafe {
        softmax::launch_unchecked(
            &scores.client,
            cubes(&scores.client, batch * rows),
            units.cube_dim(),
            scores.clone().into_buffer_arg(),
            sizes,
            units,
        );
    }
    scores
}

#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Sizes {
    rows: usize,
    keys: usize,
    /// Elements from a row to the next.
    stride: usize,
    queries: usize,
    newest: usize,
    window: usize,
    scale: f32,
}

/// A row a cube.
#[cube(launch_unchecked)]
fn softmax(scores: &mut [f32], sizes: Sizes, #[comptime] units: Units) {
    let unit = UNIT_POS as usize;
    // Cubes beyond the last row write nothing.
    let row = min(CUBE_POS, sizes.rows - 1);
    let start = row * sizes.stride;
    let end = sizes.newest + row % sizes.queries + 1;
    let begin = end - min(end, sizes.window);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(units.places(1)));
    let mut value = Array::<f32>::new(1usize);

    value[0] = f32::new(-1e30);
    let mut key = begin + unit;
    while key < end {
        value[0] = max(value[0], scores[start + key] * sizes.scale);
        key += units.count;
    }
    fold(&value, &mut shared, Fold::Max, units);
    let greatest = shared[0];
    sync_cube();

    value[0] = 0.0;
    key = begin + unit;
    while key < end {
        value[0] += (scores[start + key] * sizes.scale - greatest).exp();
        key += units.count;
    }
    fold(&value, &mut shared, Fold::Sum, units);
    let total = shared[0];

    if CUBE_POS < sizes.rows {
        key = unit;
        while key < sizes.keys {
            let weight = (scores[start + key] * sizes.scale - greatest).exp() / total;
            scores[start + key] = select(key >= begin && key < end, weight, 0.0);
            key += units.count;
        }
    }
}
