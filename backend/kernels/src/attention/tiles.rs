//! Queries side by side: their products with keys, and the values that they weigh.
#![expect(clippy::needless_range_loop, reason = "a row is the same place in several arrays")]

use super::span::SPAN;
use crate::number::Number;
use crate::simd::{CHAIN, LANES, LINE, Lanes, Simd, Work, by_rows, prefetch};

/// Elements of values that are added side by side at most, in [`LANES`].
pub(super) const COLUMNS: usize = 4;

/// How many values ahead of the one that is added memory is asked for.
const AHEAD: usize = 16;

/// How many of up to four go side by side, where each takes `rows` sums.
#[inline(always)]
fn together<S: Simd>(rows: usize, left: usize) -> usize {
    match left {
        4.. if rows * 4 <= S::SUMS => 4,
        2.. if rows * 2 <= S::SUMS => 2,
        _ => 1,
    }
}

/// Queries and sixteens of keys. The products of each [`CHAIN`] of a query and a key are summed up from zero, in order and
/// fused, and the sums are added.
pub(super) struct Scores<'a, T> {
    pub keys: &'a [T],
    /// Where each sixteen begins, `[k_dim][LANES]`.
    pub starts: &'a [usize],
    pub k_dim: usize,
    /// `[k_dim][n]`
    pub queries: &'a [f32],
    /// `[n]`; the scores of the first sixteen are written from `first` on.
    pub scores: &'a mut [[f32; SPAN]],
    pub first: usize,
}

impl<T: Number> Work for Scores<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { keys, starts, k_dim, queries, scores, first } = self;
        assert!(first + starts.len() * LANES <= SPAN && queries.len() == scores.len() * k_dim);
        // The largest, so that one comparison is enough.
        let last = starts.iter().fold(0, |last, start| last.max(*start));
        assert!(last <= keys.len() && k_dim * LANES <= keys.len() - last);
        by_rows!(scores, N => {
            let mut done = 0;
            while done < starts.len() {
                let now = Sixteens { keys, starts: &starts[done..], k_dim, queries };
                let at = first + done * LANES;
                let many = together::<S>(N, now.starts.len());
                // SAFETY: there are so many sixteens, each inside of the keys, and as many queries as scores.
                unsafe {
                    match many {
                        4 => now.multiply::<S, N, 4>(scores, at),
                        2 => now.multiply::<S, N, 2>(scores, at),
                        _ => now.multiply::<S, N, 1>(scores, at),
                    }
                }
                done += many;
            }
        }, 1 2 3 4 5 6 7 8);
    }
}

struct Sixteens<'a, T> {
    keys: &'a [T],
    starts: &'a [usize],
    k_dim: usize,
    queries: &'a [f32],
}

impl<T: Number> Sixteens<'_, T> {
    /// Writes the scores of the first `P` sixteens.
    ///
    /// # Safety
    /// There are so many, and they lie in the keys whole. There are `k_dim` elements of `N` queries.
    #[inline(always)]
    unsafe fn multiply<S: Simd, const N: usize, const P: usize>(&self, scores: &mut [[f32; SPAN]; N], at: usize) {
        let zero = S::Lanes::splat(0);
        let mut from = [self.keys.as_ptr(); P];
        for p in 0..P {
            // SAFETY: as promised.
            from[p] = unsafe { from[p].add(*self.starts.get_unchecked(p)) };
        }
        for chain in (0..self.k_dim).step_by(CHAIN) {
            let mut sums = [[zero; P]; N];
            for d in chain..self.k_dim.min(chain + CHAIN) {
                let mut keys = [zero; P];
                for p in 0..P {
                    // SAFETY: a sixteen has `k_dim` elements of sixteen keys.
                    keys[p] = T::read(unsafe { &*from[p].add(d * LANES).cast() });
                }
                for n in 0..N {
                    // SAFETY: as promised.
                    let query = S::Lanes::splat(unsafe { self.queries.get_unchecked(d * N + n) }.to_bits());
                    for p in 0..P {
                        sums[n][p] = keys[p].fused(query, sums[n][p]);
                    }
                }
            }
            for n in 0..N {
                let (places, _) = scores[n][at..at + P * LANES].as_chunks_mut::<LANES>();
                for p in 0..P {
                    let before = if chain == 0 { zero } else { f32::read(&places[p]) };
                    f32::write(before.add_float(sums[n][p]), &mut places[p]);
                }
            }
        }
    }
}

/// Values and how they are weighed: for each value `i` in order, `sums[n] = fma(weights[n][first + i], value(i), sums[n])`.
pub(super) struct Means<'a, T> {
    pub values: &'a [T],
    /// Where each begins.
    pub starts: &'a [usize],
    /// How many [`LANES`] of elements they have, [`COLUMNS`] at most.
    pub columns: usize,
    /// `[n]`
    pub weights: &'a [[f32; SPAN]],
    pub first: usize,
    /// `[n][columns][LANES]`
    pub sums: &'a mut [[[f32; LANES]; COLUMNS]],
}

impl<T: Number> Work for Means<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { values, starts, columns, weights, first, sums } = self;
        assert!((1..=COLUMNS).contains(&columns) && first + starts.len() <= SPAN && weights.len() == sums.len());
        let last = starts.iter().fold(0, |last, start| last.max(*start));
        assert!(last <= values.len() && columns * LANES <= values.len() - last);
        by_rows!(sums, N => {
            let mut done = 0;
            while done < columns {
                let now = Values { values, starts, weights, first, column: done };
                let many = together::<S>(N, columns - done);
                // SAFETY: there are so many columns of each value, and as many rows of weights as sums.
                unsafe {
                    match many {
                        4 => now.add::<S, N, 4>(sums),
                        2 => now.add::<S, N, 2>(sums),
                        _ => now.add::<S, N, 1>(sums),
                    }
                }
                done += many;
            }
        }, 1 2 3 4 5 6 7 8);
    }
}

struct Values<'a, T> {
    values: &'a [T],
    starts: &'a [usize],
    weights: &'a [[f32; SPAN]],
    first: usize,
    column: usize,
}

impl<T: Number> Values<'_, T> {
    /// Adds `C` columns from `column` on.
    ///
    /// # Safety
    /// Each value has so many, `weights` are those of `N` queries, and there are as many from `first` on as values.
    #[inline(always)]
    unsafe fn add<S: Simd, const N: usize, const C: usize>(&self, sums: &mut [[[f32; LANES]; COLUMNS]; N]) {
        let mut kept = [[S::Lanes::splat(0); C]; N];
        for n in 0..N {
            for c in 0..C {
                kept[n][c] = f32::read(&sums[n][self.column + c]);
            }
        }
        for (i, start) in self.starts.iter().enumerate() {
            // SAFETY: as promised.
            let value = unsafe { self.values.as_ptr().add(*start + self.column * LANES) };
            // Values of one head lie apart: what fetches memory ahead by itself is late.
            if let Some(later) = self.starts.get(i + AHEAD) {
                let later = self.values.as_ptr().wrapping_add(*later + self.column * LANES);
                (0..C * LANES * size_of::<T>()).step_by(LINE).for_each(|line| prefetch(later.wrapping_byte_add(line)));
            }
            let mut elements = [S::Lanes::splat(0); C];
            for c in 0..C {
                // SAFETY: as promised.
                elements[c] = T::read(unsafe { &*value.add(c * LANES).cast() });
            }
            for n in 0..N {
                // SAFETY: as promised.
                let weight = unsafe { self.weights.get_unchecked(n).get_unchecked(self.first + i) };
                let weight = S::Lanes::splat(weight.to_bits());
                for c in 0..C {
                    kept[n][c] = elements[c].fused(weight, kept[n][c]);
                }
            }
        }
        for n in 0..N {
            for c in 0..C {
                f32::write(kept[n][c], &mut sums[n][self.column + c]);
            }
        }
    }
}
