//! Spans: positions whose scores are weighed together. They begin at multiples of [`SPAN`], whatever a call is about,
//! so that a query meets the same sums in the same order in every call.

use std::ops::Range;

use super::state::State;
use super::{Call, Keys, Piece};
use crate::activation::{Tile, cut};
use crate::elementwise::sum;
use crate::exp::exp;
use crate::simd::{self, COLUMNS, FloatTile, LANES, Level, Rows, RowsTile, SPAN, Simd, TILE, Work};

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
    /// `[queries][SPAN]`
    scores: Vec<f32>,
    /// Where the slots of a span's positions begin.
    slots: Vec<usize>,
    starts: Vec<usize>,
    keys: Vec<[u32; LANES]>,
    /// The last values of rows that are not whole lanes.
    rest: Vec<f32>,
    /// What a span adds to each query: the largest score, the sum of weights, and the sum of values.
    weights: Vec<(f32, f32)>,
    mean: Vec<f32>,
}

/// A piece whose spans are added to a state one after the other.
pub(super) struct Spans<'a> {
    pub level: Level,
    pub call: &'a Call<'a>,
    pub piece: &'a Piece,
    pub room: &'a mut Room,
}

impl Spans<'_> {
    /// Makes the state what `spans` give.
    pub fn run(mut self, spans: Range<usize>) {
        let queries = self.piece.queries.len();
        self.room.state.reset(queries, self.call.shape.v_dim);
        self.room.tiles.clear();
        cut(0, 0, queries, simd::most_rows(self.level).floats, &mut self.room.tiles);
        self.room.scores.resize(queries * SPAN, 0.0);
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
            self.room.slots.extend(seen.clone().map(|i| self.call.slot(self.piece, begin + i)));
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
        for block in (seen.start / LANES * LANES..seen.end).step_by(LANES) {
            // A sixteen of positions is a sixteen of slots. Lanes outside hold anything; nobody looks at their scores.
            let slot = room.slots[block.max(seen.start) - seen.start];
            let start = (slot / LANES * stride + piece.kv_head * k_dim) * LANES;
            let w = call.store.k[start..start + k_dim * LANES].as_chunks().0;
            for tile in &room.tiles {
                let x = &room.queries[tile.first * k_dim..][..k_dim * tile.rows];
                let mut acc = [[0.0; LANES]; TILE];
                let acc = &mut acc[..tile.rows];
                simd::float_tile(*level, &FloatTile { w, x }, acc);
                for (n, acc) in acc.iter().enumerate() {
                    room.scores[(tile.first + n) * SPAN + block..][..LANES].copy_from_slice(acc);
                }
            }
        }
    }

    fn score_rows(&mut self, seen: &Range<usize>) {
        let Self { level, call, piece, room } = self;
        let (k_dim, stride) = (call.shape.k_dim, call.store.k_stride);
        room.keys.resize(COLS.min(k_dim), [0; LANES]);
        for block in (seen.start / LANES * LANES..seen.end).step_by(LANES) {
            // Lanes outside repeat a key that is seen; nobody looks at their scores.
            let keys: [&[f32]; LANES] = std::array::from_fn(|lane| {
                let slot = room.slots[(block + lane).clamp(seen.start, seen.end - 1) - seen.start];
                &call.store.k[slot * stride + piece.kv_head * k_dim..][..k_dim]
            });
            for first in (0..k_dim).step_by(COLS) {
                let cols = COLS.min(k_dim - first);
                let lanes = keys.map(|key| bytemuck::cast_slice(&key[first..first + cols]));
                let rows = Rows { lanes };
                simd::run(*level, Columns { rows, columns: &mut room.keys[..cols] });
                for tile in &room.tiles {
                    let q = &room.queries[tile.first * k_dim + first * tile.rows..][..cols * tile.rows];
                    let mut acc = [[0.0; LANES]; TILE];
                    let acc = &mut acc[..tile.rows];
                    let place = |n: usize| (tile.first + n) * SPAN + block..(tile.first + n) * SPAN + block + LANES;
                    if first > 0 {
                        acc.iter_mut().enumerate().for_each(|(n, acc)| acc.copy_from_slice(&room.scores[place(n)]));
                    }
                    let w = bytemuck::cast_slice(&room.keys[..cols]);
                    simd::float_tile(*level, &FloatTile { w, x: q }, acc);
                    acc.iter().enumerate().for_each(|(n, acc)| room.scores[place(n)].copy_from_slice(acc));
                }
            }
        }
    }

    /// Adds up the weighted values. `first` is the first position with a slot.
    fn add_values(&mut self, first: usize) {
        let (store, v_dim) = (self.call.store, self.call.shape.v_dim);
        let Room { state, tiles, seen, scores, slots, starts, rest, mean, .. } = &mut *self.room;
        mean.resize(seen.len() * state.width, 0.0);
        let mut column = 0;
        while column < state.width {
            let table = &store.v[self.piece.kv_head * v_dim + column..];
            starts.clear();
            let columns = ((v_dim - column) / LANES).clamp(1, COLUMNS);
            let table = if column + LANES <= v_dim {
                starts.extend(slots.iter().map(|slot| slot * store.v_stride));
                table
            } else {
                let some = v_dim - column;
                rest.clear();
                rest.resize(slots.len() * LANES, 0.0);
                for (slot, rest) in slots.iter().zip(rest.chunks_exact_mut(LANES)) {
                    rest[..some].copy_from_slice(&table[slot * store.v_stride..][..some]);
                }
                starts.extend((0..slots.len()).map(|i| i * LANES));
                &*rest
            };
            let values = Values { level: self.level, table, starts, columns, first };
            for tile in &*tiles {
                let mut acc = [[[0.0; LANES]; COLUMNS]; TILE];
                let acc = &mut acc[..tile.rows];
                values.weigh(&seen[tile.first..tile.first + tile.rows], &scores[tile.first * SPAN..], acc);
                for (mean, acc) in mean[tile.first * state.width..].chunks_exact_mut(state.width).zip(acc) {
                    mean[column..column + columns * LANES].copy_from_slice(acc[..columns].as_flattened());
                }
            }
            column += columns * LANES;
        }
    }
}

/// Some elements of the values of a span.
struct Values<'a> {
    level: Level,
    table: &'a [f32],
    /// Where those of positions `first..` begin.
    starts: &'a [usize],
    /// How many `LANES` of elements.
    columns: usize,
    first: usize,
}

impl Values<'_> {
    /// Adds the values that queries see, weighed with `x`, `[queries][SPAN]`.
    fn weigh(&self, seen: &[Range<usize>], x: &[f32], acc: &mut [[[f32; LANES]; COLUMNS]]) {
        // Positions that all of them see are added for all at once, those before and behind for each alone: a weight
        // of zero is no protection from a value that is not a number.
        let start = seen[seen.len() - 1].start;
        let end = seen[0].end.max(start);
        for (n, seen) in seen.iter().enumerate() {
            self.add(seen.start..seen.end.min(start), &x[n * SPAN..], &mut acc[n..n + 1]);
        }
        self.add(start..end, x, acc);
        for (n, seen) in seen.iter().enumerate() {
            self.add(seen.start.max(end)..seen.end, &x[n * SPAN..], &mut acc[n..n + 1]);
        }
    }

    /// Adds the values of some positions.
    fn add(&self, which: Range<usize>, x: &[f32], acc: &mut [[[f32; LANES]; COLUMNS]]) {
        if !which.is_empty() {
            let starts = &self.starts[which.start - self.first..which.end - self.first];
            let tile = RowsTile { table: self.table, starts, columns: self.columns, x: &x[which.start..] };
            simd::rows_tile(self.level, &tile, acc);
        }
    }
}

struct Columns<'a> {
    rows: Rows<'a>,
    columns: &'a mut [[u32; LANES]],
}

impl Work for Columns<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        S::columns(&self.rows, 0, self.columns);
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
        for (seen, scores) in seen.iter().zip(scores.chunks_exact_mut(SPAN)) {
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
    let blocks = scores[from..seen.end.next_multiple_of(LANES)].as_chunks_mut::<LANES>().0;
    let mut largest = [f32::NEG_INFINITY; LANES];
    for (i, block) in blocks.iter_mut().enumerate() {
        for lane in 0..LANES {
            let at = from + i * LANES + lane;
            let score = block[lane] * scale;
            let score = if at < seen.start || at >= seen.end { f32::NEG_INFINITY } else { score };
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
