//! AVX-512 with VNNI.
#![expect(clippy::needless_range_loop, reason = "a row is the same place in several arrays")]

mod lanes;

use std::arch::x86_64::*;

use super::portable::Portable;
use super::{BLOCK, CHAIN, FloatTile, IntTile, LANES, MostRows, Quantised, Rows, Simd, Work, avx2, by_rows};
use lanes::Whole;

pub(super) const MOST_ROWS: MostRows = MostRows { ints: Avx512::ROWS, floats: 8 };

pub(crate) struct Avx512;

/// Runs `work` compiled with these instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
pub(super) fn enter<W: Work>(work: W) -> W::Out {
    work.run::<Avx512>()
}

impl Simd for Avx512 {
    type Lanes = Whole;

    const ROWS: usize = 8;

    const SUMS: usize = 16;

    fn columns(rows: &Rows, at: usize, columns: &mut [[u32; LANES]]) {
        // SAFETY: code for `Avx512` is reached through `enter` alone.
        let done = unsafe { fours(rows, at, columns) };
        if done < columns.len() {
            Portable::columns(rows, at + done * 4, &mut columns[done..]);
        }
    }

    #[inline(always)]
    fn quantise(x: &[f32; BLOCK]) -> Quantised {
        // SAFETY: code for `Avx512` is reached through `enter` alone.
        unsafe { avx2::quantise(x) }
    }
}

/// Writes columns of words four by four, and returns how many. The last four may be some that are written already.
#[target_feature(enable = "avx512f")]
fn fours(rows: &Rows, at: usize, columns: &mut [[u32; LANES]]) -> usize {
    let (starts, words) = rows.from(at);
    let whole = words.min(columns.len());
    if whole < 4 {
        return 0;
    }
    for first in (0..whole).step_by(4) {
        let column = first.min(whole - 4);
        let mut words = [_mm512_setzero_si512(); 4];
        for i in 0..4 {
            // SAFETY: the rows have four words at `column`.
            words[i] = unsafe {
                let four = |row: usize| _mm_loadu_si128(starts[row + i].add(column * 4).cast());
                let first = _mm512_castsi128_si512(four(0));
                let second = _mm512_mask_broadcast_i32x4(first, 0x00f0, four(4));
                let third = _mm512_mask_broadcast_i32x4(second, 0x0f00, four(8));
                _mm512_mask_broadcast_i32x4(third, 0xf000, four(12))
            };
        }
        let (a, b) = (_mm512_unpacklo_epi32(words[0], words[1]), _mm512_unpacklo_epi32(words[2], words[3]));
        let (c, d) = (_mm512_unpackhi_epi32(words[0], words[1]), _mm512_unpackhi_epi32(words[2], words[3]));
        let turned = [
            _mm512_unpacklo_epi64(a, b),
            _mm512_unpackhi_epi64(a, b),
            _mm512_unpacklo_epi64(c, d),
            _mm512_unpackhi_epi64(c, d),
        ];
        for i in 0..4 {
            // SAFETY: sixteen words.
            unsafe { _mm512_storeu_si512(columns[column + i].as_mut_ptr().cast(), turned[i]) };
        }
    }
    whole
}

/// As [`super::int_tile`], which has checked the lengths.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn int_tile(tile: &IntTile, acc: &mut [[f32; LANES]]) {
    match tile.group {
        16 => by_rows!(acc, N => int_tile_of::<4, N>(tile, acc), 1 2 3 4 5 6 7 8),
        _ => by_rows!(acc, N => int_tile_of::<8, N>(tile, acc), 1 2 3 4 5 6 7 8),
    }
}

/// For groups of `WORDS` times four columns.
#[target_feature(enable = "avx512f,avx512vnni")]
fn int_tile_of<const WORDS: usize, const N: usize>(tile: &IntTile, acc: &mut [[f32; LANES]; N]) {
    let mut sums = [_mm512_setzero_ps(); N];
    for n in 0..N {
        sums[n] = load(&acc[n]);
    }
    for (group, scale) in tile.scale.iter().enumerate() {
        // SAFETY: `IntTile::check` has seen to it that each array has so many elements for each group.
        unsafe {
            let codes = tile.codes.as_ptr().add(group * WORDS).cast::<__m512i>();
            let x = tile.x.bytes.as_ptr().add(group * WORDS * N).cast::<i32>();
            let x_scale = tile.x.scale.as_ptr().add(group * WORDS / 8 * N);
            let mut dots = [_mm512_setzero_si512(); N];
            for n in 0..N {
                dots[n] = _mm512_set1_epi32(*tile.x.offset.get_unchecked(group * N + n));
            }
            for word in 0..WORDS {
                let w = _mm512_loadu_si512(codes.add(word));
                for n in 0..N {
                    let x = _mm512_set1_epi32(x.add(word * N + n).read_unaligned());
                    dots[n] = _mm512_dpbusd_epi32(dots[n], w, x);
                }
            }
            let scale = load(scale);
            for n in 0..N {
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*x_scale.add(n)));
                sums[n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[n]), scale, sums[n]);
            }
            if let Some(min) = tile.min {
                let min = load(min.get_unchecked(group));
                for n in 0..N {
                    let x_sum = _mm512_set1_ps(*tile.x.sum.get_unchecked(group * N + n));
                    sums[n] = _mm512_fmadd_ps(min, x_sum, sums[n]);
                }
            }
        }
    }
    for n in 0..N {
        keep(&mut acc[n], sums[n]);
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(lanes: &[f32; LANES]) -> __m512 {
    // SAFETY: sixteen lanes.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn keep(lanes: &mut [f32; LANES], values: __m512) {
    // SAFETY: sixteen lanes.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), values) }
}

/// As [`super::float_tile`], which has checked the lengths.
#[target_feature(enable = "avx512f")]
pub(super) fn float_tile(tile: &FloatTile, acc: &mut [[f32; LANES]]) {
    by_rows!(acc, N => float_tile_of::<N, { chains(N) }>(tile, acc), 1 2 3 4 5 6 7 8);
}

/// How many chains go side by side, so that additions need not wait for each other.
const fn chains(rows: usize) -> usize {
    match rows {
        1 | 2 => 4,
        3 | 4 => 2,
        _ => 1,
    }
}

#[target_feature(enable = "avx512f")]
fn float_tile_of<const N: usize, const CHAINS: usize>(tile: &FloatTile, acc: &mut [[f32; LANES]; N]) {
    let FloatTile { mut w, mut x } = *tile;
    while !w.is_empty() {
        let many = w.len() >= CHAINS * CHAIN;
        let columns = if many { CHAINS * CHAIN } else { w.len().min(CHAIN) };
        let (now, later) = (w.split_at(columns), x.split_at(columns * N));
        // SAFETY: there are as many chains, or a part of one, and an activation of each row for each column.
        unsafe {
            if many {
                add_chains::<N, CHAINS>(now.0, later.0, acc);
            } else {
                add_chains::<N, 1>(now.0, later.0, acc);
            }
        }
        (w, x) = (now.1, later.1);
    }
}

/// # Safety
/// `w` is `CHAINS` whole chains, or at most a whole one if that is 1; `x` has `N` elements for each of its columns.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn add_chains<const N: usize, const CHAINS: usize>(w: &[[f32; LANES]], x: &[f32], acc: &mut [[f32; LANES]; N]) {
    let mut sums = [[_mm512_setzero_ps(); N]; CHAINS];
    for k in 0..w.len() / CHAINS {
        for chain in 0..CHAINS {
            let at = chain * CHAIN + k;
            // SAFETY: as promised.
            let w = load(unsafe { w.get_unchecked(at) });
            for n in 0..N {
                // SAFETY: as promised.
                let x = _mm512_set1_ps(unsafe { *x.get_unchecked(at * N + n) });
                sums[chain][n] = _mm512_fmadd_ps(w, x, sums[chain][n]);
            }
        }
    }
    for sums in sums {
        for n in 0..N {
            let sum = _mm512_add_ps(load(&acc[n]), sums[n]);
            keep(&mut acc[n], sum);
        }
    }
}
