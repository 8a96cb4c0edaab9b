//! What lies between products: normalisation, the gated activation, rotary positions.

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::Cpu;
use crate::cells::Cells;
use crate::exp::exp;
use crate::simd::{self, LANES, Simd, Work};

/// Elements that are worth a thread's attention.
const PART: usize = 1 << 14;

/// Calls `task` with ranges of `rows` rows of `cols` elements each, on several threads if it is worth it.
fn in_rows(cpu: &Cpu, rows: usize, cols: usize, task: impl Fn(Range<usize>) + Sync) {
    let per_part = (PART / cols.max(1)).max(1);
    cpu.pool.run(rows.div_ceil(per_part), |part| task(part * per_part..rows.min((part + 1) * per_part)));
}

/// `y = x / sqrt(mean(x^2) + eps) * weight`, row by row; rows are as long as `weight`. The squares are summed up in
/// sixteen lanes, and the lanes by halves.
///
/// # Panics
/// If lengths do not fit.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    struct Norm<'a>(&'a [f32], &'a [f32], f32, &'a mut [f32]);
    impl Work for Norm<'_> {
        type Out = ();

        #[inline(always)]
        fn run<S: Simd>(self) {
            let Self(x, weight, eps, y) = self;
            for (x, y) in x.chunks_exact(weight.len()).zip(y.chunks_exact_mut(weight.len())) {
                let scale = 1.0 / (sum_of_squares(x) / weight.len() as f32 + eps).sqrt();
                for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                    *y = x * scale * weight;
                }
            }
        }
    }
    let cols = weight.len();
    assert_eq!(x.len(), y.len(), "rms_norm: input and output");
    assert!(x.is_empty() || cols > 0 && x.len().is_multiple_of(cols), "rms_norm: {} in rows of {cols}", x.len());
    let out = Cells::new(y);
    Cpu::with(|cpu| {
        in_rows(cpu, x.len().checked_div(cols).unwrap_or(0), cols, |rows| {
            let range = rows.start * cols..rows.end * cols;
            // SAFETY: parts do not share rows.
            let y = unsafe { out.piece(range.clone()) };
            simd::run(cpu.level(), Norm(&x[range], weight, eps, y));
        });
    });
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for x in chunks {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = x.mul_add(*x, *lane);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = x.mul_add(*x, *lane);
    }
    sum(lanes)
}

/// The sum of the lanes: halves are added until one is left.
#[inline(always)]
pub(crate) fn sum(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// `y = silu(gate) * up` for rows `gate | up` of `f` elements each: `gate_up` is `[n, 2 f]`, `y` is `[n, f]`. With a
/// limit, the gate is at most that, and `up` is between minus and plus that, before anything else.
///
/// # Panics
/// If lengths do not fit.
pub fn swiglu(gate_up: &[f32], f: usize, limit: Option<f32>, y: &mut [f32]) {
    struct Gate<'a>(&'a [f32], usize, f32, &'a mut [f32]);
    impl Work for Gate<'_> {
        type Out = ();

        #[inline(always)]
        fn run<S: Simd>(self) {
            let Self(gate_up, f, limit, y) = self;
            for (x, y) in gate_up.chunks_exact(2 * f).zip(y.chunks_exact_mut(f)) {
                let (gate, up) = x.split_at(f);
                for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                    // Comparisons, so that NaN stays NaN.
                    let gate = if *gate > limit { limit } else { *gate };
                    let up = if *up > limit { limit } else { *up };
                    let up = if up < -limit { -limit } else { up };
                    *y = gate / (1.0 + exp(-gate)) * up;
                }
            }
        }
    }
    let rows = y.len().checked_div(f).unwrap_or(0);
    assert_eq!(y.len(), rows * f, "swiglu: the output is not rows of {f}");
    assert_eq!(gate_up.len(), 2 * y.len(), "swiglu: gate and up for {rows} rows of {f}");
    let (out, limit) = (Cells::new(y), limit.unwrap_or(f32::INFINITY));
    Cpu::with(|cpu| {
        in_rows(cpu, rows, f, |rows| {
            // SAFETY: parts do not share rows.
            let y = unsafe { out.piece(rows.start * f..rows.end * f) };
            simd::run(cpu.level(), Gate(&gate_up[rows.start * 2 * f..rows.end * 2 * f], f, limit, y));
        });
    });
}

/// `y = e^((x - highest) scale)`, on the thread that calls: the softmax of `x` where `highest` is its greatest, not divided
/// by its sum.
///
/// # Panics
/// If lengths do not fit.
pub fn softmax_weights(x: &[f32], highest: f32, scale: f32, y: &mut [f32]) {
    struct Weigh<'a>(&'a [f32], f32, f32, &'a mut [f32]);
    impl Work for Weigh<'_> {
        type Out = ();

        #[inline(always)]
        fn run<S: Simd>(self) {
            let Self(x, highest, scale, y) = self;
            for (y, x) in y.iter_mut().zip(x) {
                *y = exp((x - highest) * scale);
            }
        }
    }
    assert_eq!(x.len(), y.len(), "softmax_weights: input and output");
    Cpu::with(|cpu| simd::run(cpu.level(), Weigh(x, highest, scale, y)));
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Element `i` with element `i + rot / 2`.
    Halves,
    /// Element `2 i` with element `2 i + 1`.
    Interleaved,
}

/// What of a head is rotated, and how.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    pub heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// The first rotated element of a head.
    pub start: usize,
    pub pairing: Pairing,
    /// `[rows, rot / 2]`, as `sin`; `rot` elements of a head are rotated.
    pub cos: &'a [f32],
    pub sin: &'a [f32],
}

/// Rotates `x`, `[rows, heads, dim]`, in place: a pair `(a, b)` becomes `(a cos - b sin, a sin + b cos)`.
///
/// # Panics
/// If lengths do not fit.
pub fn rotate(x: &mut [f32], rotation: &Rotation) {
    let Rotation { heads, dim, start, pairing, cos, sin } = *rotation;
    let width = heads * dim;
    let rows = x.len().checked_div(width).unwrap_or(0);
    assert_eq!(x.len(), rows * width, "rotate: not rows of {heads} heads of {dim}");
    let half = cos.len().checked_div(rows).unwrap_or(0);
    assert_eq!((cos.len(), sin.len()), (rows * half, rows * half), "rotate: cosines and sines of {rows} rows");
    assert!(start + 2 * half <= dim, "rotate: {} elements from {start} on in a head of {dim}", 2 * half);
    if half == 0 {
        return;
    }
    let out = Cells::new(x);
    Cpu::with(|cpu| {
        in_rows(cpu, rows, width, |rows| {
            for row in rows {
                // SAFETY: parts do not share rows.
                let x = unsafe { out.piece(row * width..(row + 1) * width) };
                let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
                simd::run(cpu.level(), Turn { x, dim, start, pairing, cos, sin });
            }
        });
    });
}

struct Turn<'a> {
    x: &'a mut [f32],
    dim: usize,
    start: usize,
    pairing: Pairing,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Work for Turn<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { x, dim, start, pairing, cos, sin } = self;
        for head in x.chunks_exact_mut(dim) {
            let part = &mut head[start..start + 2 * cos.len()];
            match pairing {
                Pairing::Halves => {
                    let (first, second) = part.split_at_mut(cos.len());
                    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                    }
                }
                Pairing::Interleaved => {
                    for (([a, b], cos), sin) in part.as_chunks_mut().0.iter_mut().zip(cos).zip(sin) {
                        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                    }
                }
            }
        }
    }
}
