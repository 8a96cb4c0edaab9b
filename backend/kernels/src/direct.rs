//! One row of activations times a panel that is never made: codes are multiplied as they are unpacked, and nothing is
//! written until the sums are complete. The sums are those of [`simd::int_tile`].

#![expect(clippy::needless_range_loop, reason = "an index counts in several arrays at once")]

use std::marker::PhantomData;

use crate::blocks::{Blocks, Bytes, ForBlocks, Groups};
use crate::panel::PanelRows;
use crate::simd::{self, Ahead, LANES, Lanes, Level, Rows, Simd, Work};

/// A quantised row; see [`simd::IntTile`].
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub x: &'a [[i8; 4]],
    pub scale: &'a [f32],
    pub offset: &'a [i32],
    pub sum: &'a [f32],
}

/// The products of a row with sixteen rows of weights.
pub(crate) fn direct(level: Level, rows: &PanelRows, row: Row) -> [f32; LANES] {
    rows.format()
        .with_blocks(Direct { level, rows, row })
        .unwrap_or_else(|| unreachable!("{} has no codes", rows.format()))
}

struct Direct<'a> {
    level: Level,
    rows: &'a PanelRows<'a>,
    row: Row<'a>,
}

impl ForBlocks for Direct<'_> {
    type Out = [f32; LANES];

    fn run<F: Blocks>(self) -> Self::Out {
        let (rows, ahead) = self.rows.all();
        simd::run(self.level, DirectAs { rows, ahead, row: self.row, format: PhantomData::<F> })
    }
}

struct DirectAs<'a, F> {
    rows: &'a Rows<'a>,
    ahead: Ahead<'a>,
    row: Row<'a>,
    format: PhantomData<F>,
}

impl<F: Blocks> Work for DirectAs<'_, F> {
    type Out = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self) -> Self::Out {
        let Self { rows, mut ahead, row: Row { x, scale, offset, sum }, .. } = self;
        const { assert!(F::GROUP == 32 || F::GROUP == 16) };
        let columns = x.len() * 4;
        let (starts, words) = rows.from(0);
        let blocks = columns / F::BLOCK;
        assert!(blocks * F::BYTES <= words * 4 + 3 && columns == blocks * F::BLOCK);
        assert!(scale.len() == columns / 32 && offset.len() == columns / F::GROUP && sum.len() == offset.len());
        let lines = ahead.per_step(columns / 32);
        let zero = S::Lanes::splat(0);
        let mut acc = zero;
        let mut groups = Groups::<S::Lanes>::new();
        for block in 0..blocks {
            let mut places = starts;
            for place in &mut places {
                *place = place.wrapping_add(block * F::BYTES);
            }
            F::groups(Single { places: &places }, &mut groups);
            for run in 0..F::BLOCK / 32 {
                ahead.call(lines);
                let column = block * (F::BLOCK / 32) + run;
                let (quarters, _) = x[column * 8..column * 8 + 8].as_chunks::<4>();
                let x = [S::Lanes::quarter(&quarters[0]), S::Lanes::quarter(&quarters[1])];
                let mut dots = [[zero; 4]; 2];
                for first in 0..4 {
                    let quad = Quad { places: &places, first };
                    for half in 0..2 {
                        let codes: S::Lanes = F::codes(quad, run, half * 4);
                        let dot = &mut dots[half * (32 - F::GROUP) / 16][first];
                        *dot = if F::LARGEST > 127 { dot.dot_wide(codes, x[half]) } else { dot.dot(codes, x[half]) };
                    }
                }
                let x_scale = S::Lanes::splat(scale[column].to_bits());
                for half in 0..32 / F::GROUP {
                    let group = column * 32 / F::GROUP + half;
                    let mut dot = S::Lanes::gather_quads(dots[half]);
                    if F::OFFSET != 0 && !(F::LARGEST > 127 && S::Lanes::WIDE_IS_SIGNED) {
                        dot = dot.add(S::Lanes::splat(offset[group].cast_unsigned()));
                    }
                    let own = run * 32 / F::GROUP + half;
                    acc = dot.float().fused(groups.scale[own].mul_float(x_scale), acc);
                    if F::MINIMUM {
                        acc = groups.min[own].fused(S::Lanes::splat(sum[group].to_bits()), acc);
                    }
                }
            }
        }
        let mut out = [0; LANES];
        acc.store(&mut out);
        out.map(f32::from_bits)
    }
}

/// A block of sixteen rows, word by word.
#[derive(Clone, Copy)]
struct Single<'a> {
    places: &'a [*const u8; LANES],
}

impl<L: Lanes> Bytes<L> for Single<'_> {
    #[inline(always)]
    fn word(self, at: usize) -> L {
        // SAFETY: formats ask for words that lie in their blocks, and `DirectAs` goes over whole blocks.
        unsafe { L::words_at(self.places, at) }
    }

    #[inline(always)]
    fn lower(self, at: usize) -> L {
        // The two bytes before are there as well, and in the lower half.
        let word: L = self.word(at.saturating_sub(2));
        if at < 2 { word } else { word.shr(16) }
    }
}

/// The same, sixteen bytes at a time.
#[derive(Clone, Copy)]
struct Quad<'a> {
    places: &'a [*const u8; LANES],
    first: usize,
}

impl<L: Lanes> Bytes<L> for Quad<'_> {
    #[inline(always)]
    fn word(self, at: usize) -> L {
        // SAFETY: formats of quarters ask for sixteen bytes that lie in their blocks.
        unsafe { L::quad(self.places, self.first, at) }
    }

    #[inline(always)]
    fn lower(self, at: usize) -> L {
        self.word(at)
    }
}
