//! A few rows of activations times a panel that is never made: codes are multiplied as they are unpacked. The sums are
//! those of [`simd::int_tile`].

#![expect(clippy::needless_range_loop, reason = "halves and quads are the same place in several arrays")]

use std::marker::PhantomData;

use crate::blocks::{Blocks, Bytes, ForBlocks, Groups};
use crate::panel::PanelRows;
use crate::simd::{self, Ahead, LANES, Lanes, Level, Rows, Simd, Work};

/// Rows that are multiplied like this at most.
pub(crate) const MOST: usize = 4;

/// A quantised row; see [`simd::IntTile`].
#[derive(Clone, Copy, Default)]
pub(crate) struct Row<'a> {
    pub x: &'a [[i8; 4]],
    pub scale: &'a [f32],
    pub offset: &'a [i32],
    pub sum: &'a [f32],
}

/// The products of up to [`MOST`] rows `x` with sixteen rows of weights, in a format of quarters: `[x.len()][LANES]`.
pub(crate) fn direct(level: Level, weights: &PanelRows, x: &[Row], y: &mut [[f32; LANES]]) {
    let done = weights.format().with_blocks(Direct { level, weights, x, y });
    done.unwrap_or_else(|| unreachable!("{} has no codes", weights.format()));
}

struct Direct<'a> {
    level: Level,
    weights: &'a PanelRows<'a>,
    x: &'a [Row<'a>],
    y: &'a mut [[f32; LANES]],
}

impl ForBlocks for Direct<'_> {
    type Out = ();

    fn run<F: Blocks>(self) {
        let (weights, ahead) = self.weights.all();
        simd::run(self.level, DirectAs { weights, ahead, x: self.x, y: self.y, format: PhantomData::<F> });
    }
}

struct DirectAs<'a, F> {
    weights: &'a Rows<'a>,
    ahead: Ahead<'a>,
    x: &'a [Row<'a>],
    y: &'a mut [[f32; LANES]],
    format: PhantomData<F>,
}

impl<F: Blocks> Work for DirectAs<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // Alone, a row keeps its sum, and codes until they are multiplied, in registers.
        if self.x.len() == 1 { self.rows::<S, true>() } else { self.rows::<S, false>() }
    }
}

impl<F: Blocks> DirectAs<'_, F> {
    #[inline(always)]
    fn rows<S: Simd, const ALONE: bool>(self) {
        let Self { weights, mut ahead, x, y, .. } = self;
        const { assert!(F::GROUP == 32 || F::GROUP == 16) };
        let (starts, words) = weights.from(0);
        let blocks = (words * 4 + 3) / F::BYTES;
        let columns = blocks * F::BLOCK;
        for x in x {
            assert!(x.x.len() * 4 == columns && x.scale.len() * 32 == columns);
            assert!(x.offset.len() * F::GROUP == columns && x.sum.len() == x.offset.len());
        }
        let lines = ahead.per_step(columns / 32);
        let zero = S::Lanes::splat(0);
        let mut acc = [zero; MOST];
        let mut alone = zero;
        let mut groups = Groups::<S::Lanes>::new();
        for block in 0..blocks {
            let at = block * F::BYTES;
            F::groups(Single { starts: &starts, at }, &mut groups);
            for run in 0..F::BLOCK / 32 {
                ahead.call(lines);
                let column = block * (F::BLOCK / 32) + run;
                if ALONE {
                    let quarters = x[0].quarters::<S::Lanes>(column);
                    let mut dots = [[zero; 4]; 2];
                    for first in 0..4 {
                        for half in 0..2 {
                            let codes = F::codes(Quad { starts: &starts, at, first }, run, half * 4);
                            add_dot::<F, S::Lanes>(&mut dots, codes, quarters[half], half, first);
                        }
                    }
                    alone = add_run::<F, S::Lanes>(alone, &dots, &groups, run, x[0], column);
                } else {
                    let mut codes = [[zero; 4]; 2];
                    for first in 0..4 {
                        for half in 0..2 {
                            codes[half][first] = F::codes(Quad { starts: &starts, at, first }, run, half * 4);
                        }
                    }
                    for (x, acc) in x.iter().zip(&mut acc) {
                        let quarters = x.quarters::<S::Lanes>(column);
                        let mut dots = [[zero; 4]; 2];
                        for first in 0..4 {
                            for half in 0..2 {
                                let codes = codes[half][first];
                                add_dot::<F, S::Lanes>(&mut dots, codes, quarters[half], half, first);
                            }
                        }
                        *acc = add_run::<F, S::Lanes>(*acc, &dots, &groups, run, *x, column);
                    }
                }
            }
        }
        if ALONE {
            acc[0] = alone;
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            acc.store(bytemuck::cast_mut(y));
        }
    }
}

impl Row<'_> {
    /// The activations of 32 columns.
    #[inline(always)]
    fn quarters<L: Lanes>(&self, column: usize) -> [L; 2] {
        let (quarters, _) = self.x[column * 8..column * 8 + 8].as_chunks::<4>();
        [L::quarter(&quarters[0]), L::quarter(&quarters[1])]
    }
}

/// Adds products of half of 32 columns of a quad of rows; the halves have sums of their own if they are groups.
#[inline(always)]
fn add_dot<F: Blocks, L: Lanes>(dots: &mut [[L; 4]; 2], codes: L, quarter: L, half: usize, first: usize) {
    let dot = &mut dots[half * (32 - F::GROUP) / 16][first];
    *dot = if F::LARGEST > 127 { dot.dot_wide(codes, quarter) } else { dot.dot(codes, quarter) };
}

/// Scales and adds the products of 32 columns, which are the `run`th of a block and the `column`th of a row.
#[inline(always)]
fn add_run<F: Blocks, L: Lanes>(
    mut acc: L,
    dots: &[[L; 4]; 2],
    groups: &Groups<L>,
    run: usize,
    x: Row,
    column: usize,
) -> L {
    let x_scale = L::splat(x.scale[column].to_bits());
    for half in 0..32 / F::GROUP {
        let (group, own) = (column * 32 / F::GROUP + half, run * 32 / F::GROUP + half);
        let mut dot = L::gather_quads(dots[half]);
        if F::OFFSET != 0 && !(F::LARGEST > 127 && L::WIDE_IS_SIGNED) {
            dot = dot.add(L::splat(x.offset[group].cast_unsigned()));
        }
        acc = dot.float().fused(groups.scale[own].mul_float(x_scale), acc);
        if F::MINIMUM {
            acc = groups.min[own].fused(L::splat(x.sum[group].to_bits()), acc);
        }
    }
    acc
}

/// A block of sixteen rows, word by word.
#[derive(Clone, Copy)]
struct Single<'a> {
    starts: &'a [*const u8; LANES],
    /// Where the block begins in each row.
    at: usize,
}

impl<L: Lanes> Bytes<L> for Single<'_> {
    #[inline(always)]
    fn word(self, at: usize) -> L {
        // SAFETY: formats ask for words that lie in their blocks, and `DirectAs` goes over whole blocks.
        unsafe { L::words_at(self.starts, self.at + at) }
    }

    #[inline(always)]
    fn lower(self, at: usize) -> L {
        // The two bytes before are there as well, and in the lower half.
        let word: L = self.word(at.saturating_sub(2));
        if at < 2 { word } else { word.shr(16) }
    }
}

/// The same, sixteen bytes of four rows at a time.
#[derive(Clone, Copy)]
struct Quad<'a> {
    starts: &'a [*const u8; LANES],
    at: usize,
    first: usize,
}

impl<L: Lanes> Bytes<L> for Quad<'_> {
    #[inline(always)]
    fn word(self, at: usize) -> L {
        // SAFETY: formats of quarters ask for sixteen bytes that lie in their blocks.
        unsafe { L::quad(self.starts, self.first, self.at + at) }
    }

    #[inline(always)]
    fn lower(self, at: usize) -> L {
        self.word(at)
    }
}
