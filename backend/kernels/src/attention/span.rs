//! Spans: positions whose scores are weighed together. They begin at multiples of [`SPAN`], whatever a call is about,
//! so that a query meets the same sums in the same order in every call.

use std::ops::Range;

use super::state::State;
use super::tiles::{COLUMNS, Means, Scores};
use super::{Call, Keys, Piece};
use crate::activation::{Tile, cut};
use crate::elementwise::sum;
use crate::exp::exp;
use crate::number::Number;
use crate::simd::{self, FloatTile, LANES, Level, Simd, TILE, Work};

/// Positions whose scores are weighed together.
pub(super) const SPAN: usize = 256;

/// Elements of keys that are put side by side at a time.
const COLS: usize = 256;

/// What a thread needs for a piece, kept from call to call.
#[derive(Default)]
pub(super) struct Room {
    pub state: State,
    tiles: Vec<Tile>,
    /// Queries, in interleaved tiles.
    queries: Vec<f32>,
    /// What each query sees of a span, counted from its begin.
    seen: Vec<Range<usize>>,
    /// `[queries]`
    scores: Vec<[f32; SPAN]>,
    /// The slots of a span's positions.
    slots: Vec<usize>,
    /// Where their values begin, or sixteens of their keys.
    starts: Vec<usize>,
    keys: Vec<[f32; LANES]>,
    /// The last values of rows that are not whole lanes.
    rest: Vec<f32>,
    /// What a span adds to each query: the largest score, the sum of weights, and the sum of values.
    weights: Vec<(f32, f32)>,
    mean: Vec<f32>,
}

/// A piece whose spans are added to a state one after the other.
pub(super) struct Spans<'a, T> {
    pub level: Level,
    pub call: &'a Call<'a, T>,
    pub piece: &'a Piece,
    pub room: &'a mut Room,
}

impl<T: Number> Spans<'_, T> {
    /// Makes the state what `spans` give.
    pub fn run(mut self, spans: Range<usize>) {
        let queries = self.piece.queries.len();
        self.room.state.reset(queries, self.call.shape.v_dim);
        self.room.tiles.clear();
        cut(0, 0, queries, simd::most_rows(self.level).floats, &mut self.room.tiles);
        self.room.scores.resize(queries, [0.0; SPAN]);
        self.gather();
        for span in spans {
            let begin = span * SPAN;
            let inside = |position: usize| position.saturating_sub(begin).min(SPAN);
            let visible = self.piece.queries.clone().map(|query| self.call.visible(self.piece, query));
            self.room.seen.clear();
            self.room.seen.extend(visible.map(|seen| inside(seen.start)..inside(seen.end)));
            // What any of them sees: later queries see later positions.
            let seen = self.room.seen[0].start..self.room.seen[queries - 1].end;
            self.room.slots.clear();
            self.call.slots(self.piece, begin + seen.start..begin + seen.end, &mut self.room.slots);
            self.score(&seen);
            simd::run(self.level, Softmax { room: self.room, scale: self.call.shape.scale });
            self.add_values(seen.start);
            simd::run(self.level, Merge { room: self.room });
        }
    }

    /// Interleaves the queries.
    fn gather(&mut self) {
        let (call, k_dim) = (self.call, self.call.shape.k_dim);
        self.room.queries.resize(self.piece.queries.len() * k_dim, 0.0);
        for tile in &self.room.tiles {
            let out = &mut self.room.queries[tile.first * k_dim..][..tile.rows * k_dim];
            for n in 0..tile.rows {
                let (row, head) = call.row_head(self.piece, self.piece.queries.start + tile.first + n);
                let q = &call.q[(row * call.shape.heads + head) * k_dim..][..k_dim];
                out[n..].iter_mut().step_by(tile.rows).zip(q).for_each(|(out, q)| *out = *q);
            }
        }
    }

    /// Queries times keys, for the positions of a span that are `seen`.
    fn score(&mut self, seen: &Range<usize>) {
        match self.call.store.keys {
            Keys::Rows => self.score_rows(seen),
            Keys::Turned => self.score_turned(seen),
        }
    }

    fn score_turned(&mut self, seen: &Range<usize>) {
        let Self { level, call, piece, room } = self;
        let (k_dim, stride) = (call.shape.k_dim, call.store.k_stride);
        let Room { tiles, queries, scores, slots, starts, .. } = &mut **room;
        // A sixteen of positions is a sixteen of slots. Lanes outside hold anything; nobody looks at their scores.
        let first = seen.start / LANES * LANES;
        let start = |slot: usize| (slot / LANES * stride + piece.kv_head * k_dim) * LANES;
        starts.clear();
        starts.extend((first..seen.end).step_by(LANES).map(|at| start(slots[at.max(seen.start) - seen.start])));
        for tile in &*tiles {
            let queries = &queries[tile.first * k_dim..][..k_dim * tile.rows];
            let scores = &mut scores[tile.first..][..tile.rows];
            simd::run(*level, Scores { keys: call.store.k, starts, k_dim, queries, scores, first });
        }
    }

    fn score_rows(&mut self, seen: &Range<usize>) {
        let Self { level, call, piece, room } = self;
        let (k_dim, stride) = (call.shape.k_dim, call.store.k_stride);
        room.keys.resize(COLS.min(k_dim), [0.0; LANES]);
        for block in (seen.start / LANES * LANES..seen.end).step_by(LANES) {
            // Lanes outside repeat a key that is seen; nobody looks at their scores.
            let keys: [&[T]; LANES] = std::array::from_fn(|lane| {
                let slot = room.slots[(block + lane).clamp(seen.start, seen.end - 1) - seen.start];
                &call.store.k[slot * stride + piece.kv_head * k_dim..][..k_dim]
            });
            for first in (0..k_dim).step_by(COLS) {
                let cols = COLS.min(k_dim - first);
                let rows = keys.map(|key| &key[first..first + cols]);
                simd::run(*level, Columns { rows, columns: &mut room.keys[..cols] });
                for tile in &room.tiles {
                    let x = &room.queries[tile.first * k_dim + first * tile.rows..][..cols * tile.rows];
                    let mut acc = [[0.0; LANES]; TILE];
                    let acc = &mut acc[..tile.rows];
                    let scores = &mut room.scores[tile.first..][..tile.rows];
                    if first > 0 {
                        acc.iter_mut().zip(&*scores).for_each(|(acc, scores)| {
                            acc.copy_from_slice(&scores[block..][..LANES]);
                        });
                    }
                    simd::float_tile(*level, &FloatTile { w: &room.keys[..cols], x }, acc);
                    scores.iter_mut().zip(acc).for_each(|(scores, acc)| {
                        scores[block..][..LANES].copy_from_slice(acc);
                    });
                }
            }
        }
    }

    /// Adds up the weighted values. `first` is the first position with a slot.
    fn add_values(&mut self, first: usize) {
        let (store, v_dim) = (self.call.store, self.call.shape.v_dim);
        let Room { state, tiles, seen, scores, slots, starts, rest, mean, .. } = &mut *self.room;
        mean.resize(seen.len() * state.width, 0.0);
        starts.clear();
        starts.extend(slots.iter().map(|slot| slot * store.v_stride));
        let mut column = 0;
        while column < state.width {
            let values = &store.v[self.piece.kv_head * v_dim + column..];
            let columns = ((v_dim - column) / LANES).clamp(1, COLUMNS);
            let some = v_dim - column;
            if some < LANES {
                rest.clear();
                rest.resize(slots.len() * LANES, 0.0);
                for (start, rest) in starts.iter().zip(rest.chunks_exact_mut(LANES)) {
                    rest[..some].iter_mut().zip(&values[*start..]).for_each(|(rest, value)| *rest = value.wide());
                }
                starts.iter_mut().enumerate().for_each(|(i, start)| *start = i * LANES);
            }
            for tile in &*tiles {
                let mut acc = [[[0.0; LANES]; COLUMNS]; TILE];
                let acc = &mut acc[..tile.rows];
                let seen = &seen[tile.first..tile.first + tile.rows];
                let weights = &scores[tile.first..tile.first + tile.rows];
                let (level, starts) = (self.level, &**starts);
                if some < LANES {
                    Values { level, values: rest, starts, columns, first }.weigh(seen, weights, acc);
                } else {
                    Values { level, values, starts, columns, first }.weigh(seen, weights, acc);
                }
                for (mean, acc) in mean[tile.first * state.width..].chunks_exact_mut(state.width).zip(acc) {
                    mean[column..column + columns * LANES].copy_from_slice(acc[..columns].as_flattened());
                }
            }
            column += columns * LANES;
        }
    }
}

/// Some elements of the values of a span.
struct Values<'a, T> {
    level: Level,
    values: &'a [T],
    /// Where those of positions `first..` begin.
    starts: &'a [usize],
    /// How many `LANES` of elements.
    columns: usize,
    first: usize,
}

impl<T: Number> Values<'_, T> {
    /// Adds the values that queries see.
    fn weigh(&self, seen: &[Range<usize>], weights: &[[f32; SPAN]], sums: &mut [[[f32; LANES]; COLUMNS]]) {
        // Positions that all of them see are added for all at once, those before and behind for each alone: a weight
        // of zero is no protection from a value that is not a number.
        let start = seen[seen.len() - 1].start;
        let end = seen[0].end.max(start);
        for (n, seen) in seen.iter().enumerate() {
            self.add(seen.start..seen.end.min(start), &weights[n..=n], &mut sums[n..=n]);
        }
        self.add(start..end, weights, sums);
        for (n, seen) in seen.iter().enumerate() {
            self.add(seen.start.max(end)..seen.end, &weights[n..=n], &mut sums[n..=n]);
        }
    }

    /// Adds the values of some positions.
    fn add(&self, which: Range<usize>, weights: &[[f32; SPAN]], sums: &mut [[[f32; LANES]; COLUMNS]]) {
        if !which.is_empty() {
            let starts = &self.starts[which.start - self.first..which.end - self.first];
            let Self { level, values, columns, .. } = *self;
            simd::run(level, Means { values, starts, columns, weights, first: which.start, sums });
        }
    }
}

struct Columns<'a, T> {
    rows: [&'a [T]; LANES],
    columns: &'a mut [[f32; LANES]],
}

impl<T: Number> Work for Columns<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        T::columns::<S>(self.rows, self.columns);
    }
}

/// Turns the scores of each query at what it sees, times `scale`, into exponentials of what they are below the largest,
/// and those around them into zeros.
struct Softmax<'a> {
    room: &'a mut Room,
    scale: f32,
}

impl Work for Softmax<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Room { seen, scores, weights, .. } = self.room;
        weights.clear();
        for (seen, scores) in seen.iter().zip(scores) {
            weights.push(softmax(scores, seen, self.scale));
        }
    }
}

/// Returns the largest score and the sum of weights.
#[inline(always)]
fn softmax(scores: &mut [f32], seen: &Range<usize>, scale: f32) -> (f32, f32) {
    if seen.is_empty() {
        return (f32::NEG_INFINITY, 0.0);
    }
    let from = seen.start / LANES * LANES;
    // As wide as a score, so that a block is compared at once.
    let (start, end) = (seen.start as u32, seen.end as u32);
    let blocks = scores[from..seen.end.next_multiple_of(LANES)].as_chunks_mut::<LANES>().0;
    let mut largest = [f32::NEG_INFINITY; LANES];
    for (i, block) in blocks.iter_mut().enumerate() {
        for lane in 0..LANES {
            let at = (from + i * LANES) as u32 + lane as u32;
            let score = block[lane] * scale;
            let score = if at < start || at >= end { f32::NEG_INFINITY } else { score };
            block[lane] = score;
            largest[lane] = if score > largest[lane] { score } else { largest[lane] };
        }
    }
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut totals = [0.0; LANES];
    for block in blocks {
        for lane in 0..LANES {
            block[lane] = exp(block[lane] - largest);
            totals[lane] += block[lane];
        }
    }
    (largest, sum(totals))
}

/// Merges what a span gave into the state.
struct Merge<'a> {
    room: &'a mut Room,
}

impl Work for Merge<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Room { state, seen, weights, mean, .. } = self.room;
        for (query, (seen, mean)) in seen.iter().zip(mean.chunks_exact(state.width)).enumerate() {
            if !seen.is_empty() {
                state.merge(query, weights[query].0, weights[query].1, mean);
            }
        }
    }
}
