//! AVX2 with FMA and F16C.

mod lanes;

use std::arch::x86_64::*;

use super::portable::Portable;
use super::{CHAIN, IntTile, LANES, SPAN, Simd, Work, by_rows};
use lanes::Halves;

/// Rows of a tile at most, of integers and of floats.
pub(super) const INT_ROWS: usize = 4;
pub(super) const FLOAT_ROWS: usize = 6;

pub(crate) struct Avx2;

/// Runs `work` compiled with these instructions.
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
pub(super) fn enter<W: Work>(work: W) -> W::Out {
    work.run::<Avx2>()
}

impl Simd for Avx2 {
    type Lanes = Halves;

    fn columns(rows: &[&[u8]; LANES], at: usize, columns: &mut [[u32; LANES]]) {
        // SAFETY: code for `Avx2` is reached through `enter` alone.
        let done = unsafe { fours(rows, at, columns) };
        Portable::columns(rows, at + done * 4, &mut columns[done..]);
    }
}

/// Writes columns of words four by four, and returns how many. The last four may be some that are written already.
#[target_feature(enable = "avx2")]
fn fours(rows: &[&[u8]; LANES], at: usize, columns: &mut [[u32; LANES]]) -> usize {
    let whole = rows.iter().map(|row| row[at..].len() / 4).min().unwrap_or(0).min(columns.len());
    if whole < 4 {
        return 0;
    }
    // SAFETY: each row has `whole` words from byte `at` on.
    let rows = rows.map(|row| unsafe { row.as_ptr().add(at) });
    for column in (0..whole).step_by(4).map(|column| column.min(whole - 4)) {
        for side in [0, 8] {
            let mut words = [_mm256_setzero_si256(); 4];
            for i in 0..4 {
                // SAFETY: the rows have four words at `column`.
                words[i] = unsafe {
                    let (low, high) = (rows[side + i].add(column * 4), rows[side + 4 + i].add(column * 4));
                    _mm256_inserti128_si256::<1>(
                        _mm256_castsi128_si256(_mm_loadu_si128(low.cast())),
                        _mm_loadu_si128(high.cast()),
                    )
                };
            }
            let (a, b) = (_mm256_unpacklo_epi32(words[0], words[1]), _mm256_unpacklo_epi32(words[2], words[3]));
            let (c, d) = (_mm256_unpackhi_epi32(words[0], words[1]), _mm256_unpackhi_epi32(words[2], words[3]));
            let turned = [
                _mm256_unpacklo_epi64(a, b),
                _mm256_unpackhi_epi64(a, b),
                _mm256_unpacklo_epi64(c, d),
                _mm256_unpackhi_epi64(c, d),
            ];
            for i in 0..4 {
                // SAFETY: eight of sixteen words.
                unsafe { _mm256_storeu_si256(columns[column + i].as_mut_ptr().add(side).cast(), turned[i]) };
            }
        }
    }
    whole
}

/// Products of codes and bytes that a 16-bit sum of pairs holds without overflow; 0 if not even one fits.
fn pairs_that_fit(largest: u8) -> usize {
    (i16::MAX as usize).checked_div(usize::from(largest) * 127 * 2).unwrap_or(usize::MAX)
}

/// As [`super::int_tile`], which has checked the lengths.
#[target_feature(enable = "avx2,fma")]
pub(super) fn int_tile(tile: &IntTile, acc: &mut [[f32; LANES]]) {
    match (pairs_that_fit(tile.largest), tile.group) {
        (0, _) => by_rows!(acc, N => signed_tile::<N>(tile, acc), 1 2 3 4),
        (1, _) => by_rows!(acc, N => unsigned_tile::<1, N>(tile, acc), 1 2 3 4),
        (2..4, _) => by_rows!(acc, N => unsigned_tile::<2, N>(tile, acc), 1 2 3 4),
        (8.., 32) => by_rows!(acc, N => unsigned_tile::<8, N>(tile, acc), 1 2 3 4),
        _ => by_rows!(acc, N => unsigned_tile::<4, N>(tile, acc), 1 2 3 4),
    }
}

/// A group's sums of products, for eight lanes and eight more.
type Dots<const N: usize> = [[__m256i; 2]; N];

/// `FIT` products of pairs are summed up in 16 bits.
#[target_feature(enable = "avx2,fma")]
fn unsigned_tile<const FIT: usize, const N: usize>(tile: &IntTile, acc: &mut [[f32; LANES]; N]) {
    let words = tile.group / 4;
    let ones = _mm256_set1_epi16(1);
    for group in 0..tile.scale.len() {
        let mut dots = [[_mm256_setzero_si256(); 2]; N];
        for (n, dot) in dots.iter_mut().enumerate() {
            *dot = [_mm256_set1_epi32(tile.x_offset[group * N + n]); 2];
        }
        for first in (group * words..(group + 1) * words).step_by(FIT) {
            let mut pairs = [[_mm256_setzero_si256(); 2]; N];
            for word in first..first + FIT {
                // SAFETY: `IntTile::check` has seen to it that there are so many words in both.
                let (w, x) = unsafe { (codes(tile, word), tile.x.as_ptr().add(word * N).cast::<i32>()) };
                for n in 0..N {
                    // SAFETY: as above.
                    let x = _mm256_set1_epi32(unsafe { x.add(n).read_unaligned() });
                    for side in 0..2 {
                        pairs[n][side] = _mm256_add_epi16(pairs[n][side], _mm256_maddubs_epi16(w[side], x));
                    }
                }
            }
            for n in 0..N {
                for side in 0..2 {
                    dots[n][side] = _mm256_add_epi32(dots[n][side], _mm256_madd_epi16(pairs[n][side], ones));
                }
            }
        }
        // SAFETY: `group` is one of the tile's.
        unsafe { accumulate(tile, group, &dots, acc) };
    }
}

/// For codes whose products do not fit 16 bits: these count from 128, and are multiplied as the signed bytes they are
/// then, magnitudes by activations of their sign.
#[target_feature(enable = "avx2,fma")]
fn signed_tile<const N: usize>(tile: &IntTile, acc: &mut [[f32; LANES]; N]) {
    let words = tile.group / 4;
    let (ones, flip) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
    for group in 0..tile.scale.len() {
        let mut dots = [[_mm256_setzero_si256(); 2]; N];
        for word in group * words..(group + 1) * words {
            // SAFETY: `IntTile::check` has seen to it that there are so many words in both.
            let (w, x) = unsafe { (codes(tile, word), tile.x.as_ptr().add(word * N).cast::<i32>()) };
            let w = [_mm256_xor_si256(w[0], flip), _mm256_xor_si256(w[1], flip)];
            let sizes = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
            for n in 0..N {
                // SAFETY: as above.
                let x = _mm256_set1_epi32(unsafe { x.add(n).read_unaligned() });
                for side in 0..2 {
                    let pairs = _mm256_maddubs_epi16(sizes[side], _mm256_sign_epi8(x, w[side]));
                    dots[n][side] = _mm256_add_epi32(dots[n][side], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        // SAFETY: `group` is one of the tile's.
        unsafe { accumulate(tile, group, &dots, acc) };
    }
}

/// Four codes of each lane.
///
/// # Safety
/// `word` is one of the tile's.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn codes(tile: &IntTile, word: usize) -> [__m256i; 2] {
    // SAFETY: as promised; a word of sixteen lanes is 64 bytes.
    unsafe {
        let codes = tile.codes.as_ptr().add(word).cast::<__m256i>();
        [_mm256_loadu_si256(codes), _mm256_loadu_si256(codes.add(1))]
    }
}

/// Scales a group's sums and adds them.
///
/// # Safety
/// `group` is one of the tile's.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn accumulate<const N: usize>(tile: &IntTile, group: usize, dots: &Dots<N>, acc: &mut [[f32; LANES]; N]) {
    // SAFETY: as promised, and a side is eight of sixteen lanes.
    unsafe {
        let scale = sides(tile.scale.get_unchecked(group));
        let x_scale = tile.x_scale.as_ptr().add(group * tile.group / 32 * N);
        for n in 0..N {
            let x_scale = _mm256_set1_ps(*x_scale.add(n));
            let mut sums = sides(&acc[n]);
            for side in 0..2 {
                let scale = _mm256_mul_ps(scale[side], x_scale);
                sums[side] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[n][side]), scale, sums[side]);
            }
            if let Some(min) = tile.min {
                let min = sides(min.get_unchecked(group));
                let x_sum = _mm256_set1_ps(*tile.x_sum.get_unchecked(group * N + n));
                for side in 0..2 {
                    sums[side] = _mm256_fmadd_ps(min[side], x_sum, sums[side]);
                }
            }
            keep(&mut acc[n], sums);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn sides(lanes: &[f32; LANES]) -> [__m256; 2] {
    // SAFETY: eight of sixteen lanes, and the other eight.
    unsafe { [_mm256_loadu_ps(lanes.as_ptr()), _mm256_loadu_ps(lanes.as_ptr().add(8))] }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn keep(lanes: &mut [f32; LANES], sides: [__m256; 2]) {
    // SAFETY: eight of sixteen lanes, and the other eight.
    unsafe {
        _mm256_storeu_ps(lanes.as_mut_ptr(), sides[0]);
        _mm256_storeu_ps(lanes.as_mut_ptr().add(8), sides[1]);
    }
}

/// As [`super::float_tile`], which has checked the lengths.
#[target_feature(enable = "avx2,fma")]
pub(super) fn float_tile(w: &[[f32; LANES]], x: &[f32], acc: &mut [[f32; LANES]]) {
    by_rows!(acc, N => float_tile_of::<N>(w, x, acc), 1 2 3 4 5 6);
}

#[target_feature(enable = "avx2,fma")]
fn float_tile_of<const N: usize>(w: &[[f32; LANES]], x: &[f32], acc: &mut [[f32; LANES]; N]) {
    for (w, x) in w.chunks(CHAIN).zip(x.chunks(CHAIN * N)) {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for (w, x) in w.iter().zip(x.as_chunks::<N>().0) {
            let w = sides(w);
            for n in 0..N {
                let x = _mm256_set1_ps(x[n]);
                sums[n] = [_mm256_fmadd_ps(w[0], x, sums[n][0]), _mm256_fmadd_ps(w[1], x, sums[n][1])];
            }
        }
        for n in 0..N {
            let before = sides(&acc[n]);
            keep(&mut acc[n], [_mm256_add_ps(before[0], sums[n][0]), _mm256_add_ps(before[1], sums[n][1])]);
        }
    }
}

/// As [`super::rows_tile`], which has checked the lengths.
#[target_feature(enable = "avx2,fma")]
pub(super) fn rows_tile(table: &[f32], starts: &[usize], x: &[f32], acc: &mut [[f32; LANES]]) {
    by_rows!(acc, N => rows_tile_of::<N>(table, starts, x, acc), 1 2 3 4 5 6);
}

#[target_feature(enable = "avx2,fma")]
fn rows_tile_of<const N: usize>(table: &[f32], starts: &[usize], x: &[f32], acc: &mut [[f32; LANES]; N]) {
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    for n in 0..N {
        sums[n] = sides(&acc[n]);
    }
    for (i, start) in starts.iter().enumerate() {
        // SAFETY: `rows_tile` has seen to it that there are so many elements.
        let row = sides(unsafe { &*table.as_ptr().add(*start).cast() });
        for n in 0..N {
            // SAFETY: as above.
            let x = _mm256_set1_ps(unsafe { *x.get_unchecked(n * SPAN + i) });
            sums[n] = [_mm256_fmadd_ps(row[0], x, sums[n][0]), _mm256_fmadd_ps(row[1], x, sums[n][1])];
        }
    }
    for n in 0..N {
        keep(&mut acc[n], sums[n]);
    }
}
