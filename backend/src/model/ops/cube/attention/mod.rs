//! Attention over a paged cache.

mod paged;
mod prompt;

use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;
use littoral_kernels::AttentionShape;

use super::{super::PagedAttention, empty, flat, fold::Units, per_unit, upload, vector_of};
use paged::{InputsLaunch, LINE, Plan};

/// Spans with more rows are prompts.
const FEW: usize = 8;
/// Query heads of a cube, at most.
const HEADS: usize = 8;
/// Units of a cube.
const UNITS: usize = 128;
/// Cubes there should be: positions are cut into parts until there are.
const CUBES: usize = 512;
/// Positions of a part, at least.
const PART: usize = 256;

/// See [`Kernels::attention`](super::super::Kernels::attention).
pub fn attention(q: CubeTensor, k: CubeTensor, v: CubeTensor, plan: &PagedAttention) -> CubeTensor {
    let (q, k, v) = (flat(q), rows_of(k), rows_of(v));
    let [n, heads, _] = q.meta.shape().dims();
    let mut out = empty(&q, [n, heads, plan.shape.v_dim]);
    let lines = Lines::of(plan);
    if lines.count > 0 {
        lines.attend(&q, &k, &v, &plan.shape, &out);
    }
    for span in plan.spans.iter().filter(|span| span.rows > FEW) {
        out = prompt::attend(&q, &k, &v, span, &plan.shape, out);
    }
    out
}

/// A cache whose rows are whole; there may be gaps between them.
fn rows_of(cache: CubeTensor) -> CubeTensor {
    if cache.meta.strides()[1] == 1 { cache } else { into_contiguous(cache) }
}

/// Single rows.
struct Lines {
    count: usize,
    /// A line a row, then the block tables of their sequences: what [`paged::attend`] reads.
    numbers: Vec<u32>,
    /// Positions that the row with the most sees.
    longest: usize,
}

impl Lines {
    /// Those of spans with few rows.
    fn of(plan: &PagedAttention) -> Self {
        let window = plan.shape.window.unwrap_or(usize::MAX);
        let spans = || plan.spans.iter().filter(|span| span.rows <= FEW);
        let count = spans().map(|span| span.rows).sum();
        let mut lines = Self { count, numbers: Vec::new(), longest: 0 };
        let mut table = count * LINE;
        for span in spans() {
            for i in 0..span.rows {
                let end = span.start + i + 1;
                let begin = end.saturating_sub(window);
                lines.longest = lines.longest.max(end - begin);
                lines.numbers.extend([span.row + i, table, begin, end].map(|number| number as u32));
            }
            table += span.blocks.len();
        }
        lines.numbers.extend(spans().flat_map(|span| &span.blocks).map(|block| *block as u32));
        lines
    }

    /// Writes the result of these rows into `out`.
    fn attend(&self, q: &CubeTensor, k: &CubeTensor, v: &CubeTensor, shape: &AttentionShape, out: &CubeTensor) {
        let AttentionShape { heads, kv_heads, k_dim, v_dim, block_tokens, .. } = *shape;
        let client = &q.client;
        let widths = [k.meta.strides()[0], v.meta.strides()[0]];
        let vector = vector_of(&[k_dim, v_dim, widths[0], widths[1]]);
        let (count, group) = (self.count, heads / kv_heads);
        let mut plan = Plan {
            kv_heads,
            group,
            heads: group.div_ceil(group.div_ceil(HEADS)),
            k_dim: k_dim / vector,
            v_dim: v_dim / vector,
            block_tokens,
            units: Units::new(client, UNITS, UNITS),
            whole: true,
        };
        let parts = (CUBES / (count * plan.tiles())).clamp(1, self.longest.div_ceil(PART));
        plan.whole = parts == 1;
        let lines = upload(q, &self.numbers);
        let sums = if plan.whole { out.clone() } else { empty(q, [count * heads * parts, v_dim]) };
        let state = empty(q, [if plan.whole { 1 } else { count * heads * parts }, 2]);
        let inputs = InputsLaunch::new(widths[0] / vector, widths[1] / vector, shape.scale, parts);
        // SAFETY: the lines name rows of `q` and `out`, and blocks of the cache; `sums` and `state` have a place for
        // every line, head and part.
        unsafe {
            paged::attend::launch_unchecked(
                client,
                CubeCount::Static(plan.tiles() as u32, parts as u32, count as u32),
                plan.units.cube_dim(),
                vector,
                q.clone().into_buffer_arg(),
                k.clone().into_buffer_arg(),
                v.clone().into_buffer_arg(),
                lines.clone().into_buffer_arg(),
                sums.clone().into_buffer_arg(),
                state.clone().into_buffer_arg(),
                inputs,
                plan,
            );
        }
        if plan.whole {
            return;
        }
        let (cubes, dim) = per_unit(client, count * heads * plan.v_dim);
        // SAFETY: as above.
        unsafe {
            paged::join::launch_unchecked(
                client,
                cubes,
                dim,
                vector,
                sums.into_buffer_arg(),
                state.into_buffer_arg(),
                lines.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                count,
                heads,
                parts,
                plan.v_dim,
            );
        }
    }
}
