//! A tile of activations times a panel that is never made: codes are multiplied as they are unpacked, which pays where
//! one tile is all that the panel meets. The sums are those of [`simd::int_tile`].

use std::marker::PhantomData;

use crate::Format;
use crate::blocks::{Block, Blocks, ForBlocks, Groups};
use crate::simd::{self, IntRows, LANES, LINE, Lanes, Level, Simd, Work, by_rows, prefetch};

/// The products of a tile with a packed panel in a format of integers: `[n][LANES]`.
pub(crate) fn direct(level: Level, format: Format, panel: &[u8], tile: IntRows, acc: &mut [[f32; LANES]]) {
    let done = format.with_blocks(Direct { level, panel, tile, acc });
    done.unwrap_or_else(|| unreachable!("{format} has no codes"));
}

struct Direct<'a> {
    level: Level,
    panel: &'a [u8],
    tile: IntRows<'a>,
    acc: &'a mut [[f32; LANES]],
}

impl ForBlocks for Direct<'_> {
    type Out = ();

    fn run<F: Blocks>(self) {
        let Self { level, panel, tile, acc } = self;
        simd::run(level, DirectAs { panel, tile, acc, format: PhantomData::<F> });
    }
}

struct DirectAs<'a, F> {
    panel: &'a [u8],
    tile: IntRows<'a>,
    acc: &'a mut [[f32; LANES]],
    format: PhantomData<F>,
}

impl<F: Blocks> Work for DirectAs<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { panel, tile, acc, .. } = self;
        if S::ROWS > 4 {
            by_rows!(acc, N => rows::<F, S::Lanes, N>(panel, tile, acc), 1 2 3 4 5 6 7 8);
        } else {
            by_rows!(acc, N => rows::<F, S::Lanes, N>(panel, tile, acc), 1 2 3 4);
        }
    }
}

/// How far ahead of what is read memory is asked for, bytes: two pages, at whose ends what fetches it by itself stops.
const AHEAD: usize = 8192;

const SAME: &str = "a tile has the columns of its panel";

#[inline(always)]
fn rows<F: Blocks, L: Lanes, const N: usize>(panel: &[u8], tile: IntRows, acc: &mut [[f32; LANES]; N]) {
    const { assert!(F::GROUP == 32 || F::GROUP == 16) };
    let (runs, halves) = (F::BLOCK / 32, 32 / F::GROUP);
    let mut sums = [L::splat(0); N];
    let mut groups = Groups::<L>::new();
    let mut x = tile.bytes.chunks_exact(8 * N);
    let mut x_scales = tile.scale.as_chunks::<N>().0.iter();
    let mut x_groups = tile.offset.as_chunks::<N>().0.iter().zip(tile.sum.as_chunks::<N>().0);
    for block in panel.chunks_exact(F::BYTES * LANES).map(Block) {
        (0..F::BYTES * LANES).step_by(LINE).for_each(|line| prefetch(block.0.as_ptr().wrapping_add(AHEAD + line)));
        F::groups(block, &mut groups);
        for run in 0..runs {
            let (Some(x), Some(x_scale)) = (x.next(), x_scales.next()) else { unreachable!("{SAME}") };
            for half in 0..halves {
                let Some((x_offset, x_sum)) = x_groups.next() else { unreachable!("{SAME}") };
                let wide = F::LARGEST > 127;
                let mut dots = x_offset.map(|offset| match F::OFFSET == 0 || wide && L::WIDE_IS_SIGNED {
                    true => L::splat(0),
                    false => L::splat(offset.cast_unsigned()),
                });
                for word in half * 8 / halves..(half + 1) * 8 / halves {
                    let codes = F::codes::<L>(block, run, word);
                    for (n, dot) in dots.iter_mut().enumerate() {
                        let x = L::splat(u32::from_le_bytes(bytemuck::cast(x[word * N + n])));
                        *dot = if wide { dot.dot_wide(codes, x) } else { dot.dot(codes, x) };
                    }
                }
                let group = run * halves + half;
                for (n, sum) in sums.iter_mut().enumerate() {
                    let scale = groups.scale[group].mul_float(L::splat(x_scale[n].to_bits()));
                    *sum = dots[n].float().fused(scale, *sum);
                    if F::MINIMUM {
                        *sum = groups.min[group].fused(L::splat(x_sum[n].to_bits()), *sum);
                    }
                }
            }
        }
    }
    for (acc, sum) in acc.iter_mut().zip(sums) {
        sum.store(bytemuck::cast_mut(acc));
    }
}
