//! Attention over keys and values that lie in blocks of a common store.

mod span;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod tiles;

use std::cell::RefCell;
use std::ops::Range;

use crate::Cpu;
use crate::cells::Cells;
use crate::number::{Number, Numbers};
use crate::simd::{self, LANES};
use span::{Room, SPAN, Spans};
use store::Slots;
pub use store::{Keys, Store};

/// Sizes that all sequences share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` heads.
    pub kv_heads: usize,
    /// Elements of a query and a key.
    pub k_dim: usize,
    /// Elements of a value and an output.
    pub v_dim: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// How many positions a row sees, its own included; none if all.
    pub window: Option<usize>,
    /// Positions of a block of the store.
    pub block_tokens: usize,
}

/// Rows of queries of one sequence. Position `t` lies in slot
/// `blocks[t / block_tokens] * block_tokens + t % block_tokens`.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The first row of queries.
    pub first_row: usize,
    pub rows: usize,
    /// The position of the first row.
    pub start: usize,
    pub blocks: &'a [i32],
}

/// Queries that one thread computes with at a time.
const QUERIES: usize = 32;

/// Writes, for each row of `q` (`[rows, heads, k_dim]`) that a segment has, the mean of the values that it sees,
/// weighed by the softmax of its scores: `out` is `[rows, heads, v_dim]`. A row sees the positions of its segment up to
/// its own. `sinks` are one more score per head, which has no value. A row of `out` depends, to the bit, on its row of
/// `q` and what it sees alone.
///
/// # Panics
/// If lengths do not fit, segments share rows, a block is not in the store, or keys are of another kind than values.
pub fn attention(
    q: &[f32],
    store: &Store,
    segments: &[Segment],
    shape: &AttentionShape,
    sinks: Option<&[f32]>,
    out: &mut [f32],
) {
    let Store { keys, k, k_stride, v, v_stride } = *store;
    match (k, v) {
        (Numbers::F32(k), Numbers::F32(v)) => {
            attend(q, &Slots { keys, k, k_stride, v, v_stride }, segments, shape, sinks, out);
        }
        (Numbers::F16(k), Numbers::F16(v)) => {
            attend(q, &Slots { keys, k, k_stride, v, v_stride }, segments, shape, sinks, out);
        }
        _ => panic!("attention: keys of another kind than values"),
    }
}

fn attend<T: Number>(
    q: &[f32],
    store: &Slots<T>,
    segments: &[Segment],
    shape: &AttentionShape,
    sinks: Option<&[f32]>,
    out: &mut [f32],
) {
    check(q, store, segments, shape, sinks, out);
    let group = shape.heads / shape.kv_heads;
    let mut pieces = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let queries = segment.rows * group;
        for kv_head in 0..shape.kv_heads {
            let starts = (0..queries).step_by(QUERIES);
            pieces.extend(starts.map(|first| Piece {
                segment: index,
                kv_head,
                queries: first..queries.min(first + QUERIES),
            }));
        }
    }
    let call = Call { q, store, segments, shape, sinks, group, out: Cells::new(out) };
    Cpu::with(|cpu| {
        if cpu.pool.threads() == 1 || pieces.len() >= cpu.pool.threads() * 2 {
            cpu.pool.run(pieces.len(), |i| call.whole(cpu, &pieces[i]));
        } else {
            call.by_span(cpu, &pieces);
        }
    });
}

/// Queries of a segment that share a head of keys: query `i` is row `i / group` and head `i % group` of the group.
struct Piece {
    segment: usize,
    kv_head: usize,
    queries: Range<usize>,
}

struct Call<'a, T> {
    q: &'a [f32],
    store: &'a Slots<'a, T>,
    segments: &'a [Segment<'a>],
    shape: &'a AttentionShape,
    sinks: Option<&'a [f32]>,
    group: usize,
    out: Cells<'a, f32>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

impl<T: Number> Call<'_, T> {
    /// Computes a piece on one thread.
    fn whole(&self, cpu: &Cpu, piece: &Piece) {
        ROOM.with_borrow_mut(|room| {
            Spans { level: cpu.level(), call: self, piece, room }.run(self.spans(piece));
            simd::run(cpu.level(), state::Finish { call: self, piece, state: &room.state });
        });
    }

    /// Computes each span of each piece by itself, for few pieces and many threads.
    fn by_span(&self, cpu: &Cpu, pieces: &[Piece]) {
        let parts: Vec<_> = pieces.iter().flat_map(|piece| self.spans(piece).map(move |span| (piece, span))).collect();
        let mut states: Vec<_> = parts.iter().map(|_| state::State::default()).collect();
        let cells = Cells::new(&mut states);
        cpu.pool.run(parts.len(), |i| {
            let (piece, span) = parts[i];
            ROOM.with_borrow_mut(|room| {
                Spans { level: cpu.level(), call: self, piece, room }.run(span..span + 1);
                // SAFETY: each part has a state of its own.
                let state = unsafe { &mut cells.piece(i..i + 1)[0] };
                state.clone_from(&room.state);
            });
        });
        let mut rest = &mut states[..];
        for piece in pieces {
            let (states, others) = rest.split_at_mut(self.spans(piece).len());
            rest = others;
            let (first, later) = states.split_first_mut().expect("a row sees itself");
            later.iter().for_each(|later| simd::run(cpu.level(), state::Merge { into: first, from: later }));
            simd::run(cpu.level(), state::Finish { call: self, piece, state: first });
        }
    }

    /// The spans in which a query of the piece sees something.
    fn spans(&self, piece: &Piece) -> Range<usize> {
        let (first, last) = (self.visible(piece, piece.queries.start), self.visible(piece, piece.queries.end - 1));
        first.start / SPAN..last.end.div_ceil(SPAN)
    }

    /// The positions that a query sees.
    #[inline(always)]
    fn visible(&self, piece: &Piece, query: usize) -> Range<usize> {
        let end = self.segments[piece.segment].start + query / self.group + 1;
        end.saturating_sub(self.shape.window.unwrap_or(end))..end
    }

    /// Adds the slots of positions to `slots`.
    fn slots(&self, piece: &Piece, positions: Range<usize>, slots: &mut Vec<usize>) {
        let (tokens, blocks) = (self.shape.block_tokens, self.segments[piece.segment].blocks);
        let mut at = positions.start;
        while at < positions.end {
            let (block, first) = (at / tokens, at % tokens);
            let many = (tokens - first).min(positions.end - at);
            let slot = blocks[block] as usize * tokens + first;
            slots.extend(slot..slot + many);
            at += many;
        }
    }

    /// Which row and head of queries and outputs a query is.
    #[inline(always)]
    fn row_head(&self, piece: &Piece, query: usize) -> (usize, usize) {
        let row = self.segments[piece.segment].first_row + query / self.group;
        (row, piece.kv_head * self.group + query % self.group)
    }
}

fn check<T>(
    q: &[f32],
    store: &Slots<T>,
    segments: &[Segment],
    shape: &AttentionShape,
    sinks: Option<&[f32]>,
    out: &[f32],
) {
    let AttentionShape { heads, kv_heads, k_dim, v_dim, window, block_tokens, .. } = *shape;
    assert!(kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads), "attention: {heads} heads over {kv_heads}");
    assert!(k_dim > 0 && v_dim > 0 && block_tokens > 0 && window != Some(0), "attention: {shape:?}");
    let rows = q.len() / (heads * k_dim);
    assert_eq!(q.len(), rows * heads * k_dim, "attention: queries of {heads} heads of {k_dim}");
    assert_eq!(out.len(), rows * heads * v_dim, "attention: outputs of {rows} rows of {heads} heads of {v_dim}");
    assert!(sinks.is_none_or(|sinks| sinks.len() == heads), "attention: a sink for each of {heads} heads");
    // Slots that lie in the store whole.
    let slots = |len: usize, stride: usize, width: usize| {
        if width > len { 0 } else { (len - width).checked_div(stride).map_or(usize::MAX, |slots| slots + 1) }
    };
    let keys = match store.keys {
        Keys::Rows => slots(store.k.len(), store.k_stride, kv_heads * k_dim),
        Keys::Turned => {
            assert!(block_tokens.is_multiple_of(LANES), "attention: turned keys in blocks of {block_tokens}");
            slots(store.k.len() / LANES, store.k_stride, kv_heads * k_dim).saturating_mul(LANES)
        }
    };
    let slots = keys.min(slots(store.v.len(), store.v_stride, kv_heads * v_dim));
    let mut taken: Vec<_> =
        segments.iter().map(|segment| segment.first_row..segment.first_row + segment.rows).collect();
    taken.sort_by_key(|rows| rows.start);
    assert!(taken.windows(2).all(|pair| pair[0].end <= pair[1].start), "attention: segments share rows");
    for segment in segments.iter().filter(|segment| segment.rows > 0) {
        let end = segment.start + segment.rows;
        assert!(segment.first_row + segment.rows <= rows, "attention: {rows} rows, and a segment beyond them");
        let begin = (segment.start + 1).saturating_sub(window.unwrap_or(usize::MAX));
        assert!(end.div_ceil(block_tokens) <= segment.blocks.len(), "attention: blocks for {end} positions");
        for block in begin / block_tokens..end.div_ceil(block_tokens) {
            let last = end.min((block + 1) * block_tokens) - 1 - block * block_tokens;
            let number = segment.blocks[block];
            let fits = usize::try_from(number).is_ok_and(|number| number * block_tokens + last < slots);
            assert!(fits, "attention: block {number} is not among {slots} slots");
        }
    }
}
