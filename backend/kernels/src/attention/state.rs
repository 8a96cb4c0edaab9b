//! The softmax of a query while its keys are read.

use super::{Call, Piece};
use crate::exp::exp;
use crate::number::Number;
use crate::simd::{LANES, Simd, Work};

/// For each query of a piece: the largest score, the sum of the exponentials of scores below it, and the sum of values
/// weighed with those.
#[derive(Clone, Default)]
pub(super) struct State {
    /// Minus infinity before anything is seen.
    pub largest: Vec<f32>,
    pub total: Vec<f32>,
    /// `[queries, width]`; the elements from `v_dim` on are padding.
    pub mean: Vec<f32>,
    /// `v_dim`, in whole lanes.
    pub width: usize,
}

impl State {
    /// Nothing seen.
    pub fn reset(&mut self, queries: usize, v_dim: usize) {
        self.width = v_dim.next_multiple_of(LANES);
        self.largest.clear();
        self.largest.resize(queries, f32::NEG_INFINITY);
        self.total.clear();
        self.total.resize(queries, 0.0);
        self.mean.clear();
        self.mean.resize(queries * self.width, 0.0);
    }

    /// Adds what a query saw later to what it saw before.
    #[inline(always)]
    pub fn merge(&mut self, query: usize, largest: f32, total: f32, mean: &[f32]) {
        let own = &mut self.mean[query * self.width..][..self.width];
        if self.largest[query] == f32::NEG_INFINITY {
            (self.largest[query], self.total[query]) = (largest, total);
            own.copy_from_slice(mean);
            return;
        }
        let both = if largest > self.largest[query] { largest } else { self.largest[query] };
        let (before, after) = (exp(self.largest[query] - both), exp(largest - both));
        self.largest[query] = both;
        self.total[query] = self.total[query].mul_add(before, total * after);
        for (own, mean) in own.iter_mut().zip(mean) {
            *own = own.mul_add(before, mean * after);
        }
    }
}

/// Adds a later state to an earlier one.
pub(super) struct Merge<'a> {
    pub into: &'a mut State,
    pub from: &'a State,
}

impl Work for Merge<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.from.width;
        for (query, largest) in self.from.largest.iter().enumerate() {
            if *largest != f32::NEG_INFINITY {
                let mean = &self.from.mean[query * width..][..width];
                self.into.merge(query, *largest, self.from.total[query], mean);
            }
        }
    }
}

/// Writes the outputs of a piece.
pub(super) struct Finish<'a, T> {
    pub call: &'a Call<'a, T>,
    pub piece: &'a Piece,
    pub state: &'a State,
}

impl<T: Number> Work for Finish<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { call, piece, state } = self;
        let (heads, v_dim) = (call.shape.heads, call.shape.v_dim);
        for (i, query) in piece.queries.clone().enumerate() {
            let (row, head) = call.row_head(piece, query);
            let mut factor = 1.0 / state.total[i];
            if let Some(sinks) = call.sinks {
                let (sink, largest) = (sinks[head], state.largest[i]);
                let both = if sink > largest { sink } else { largest };
                let own = exp(largest - both);
                factor = own / state.total[i].mul_add(own, exp(sink - both));
            }
            let start = (row * heads + head) * v_dim;
            // SAFETY: a query is in one piece, and rows are in one segment.
            let out = unsafe { call.out.piece(start..start + v_dim) };
            out.iter_mut().zip(&state.mean[i * state.width..]).for_each(|(out, mean)| *out = mean * factor);
        }
    }
}
