//! AVX2 with FMA and F16C.
#![expect(clippy::needless_range_loop, reason = "a row is the same place in several arrays")]

mod lanes;

use std::arch::x86_64::*;

use super::portable::Portable;
use super::{BLOCK, CHAIN, FloatTile, IntTile, LANES, MostRows, Quantised, Rows, Simd, Work, by_rows, steps};
use lanes::Halves;

pub(super) const MOST_ROWS: MostRows = MostRows { ints: Avx2::ROWS, floats: 6 };

pub(crate) struct Avx2;

/// Runs `work` compiled with these instructions.
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
pub(super) fn enter<W: Work>(work: W) -> W::Out {
    work.run::<Avx2>()
}

impl Simd for Avx2 {
    type Lanes = Halves;

    const ROWS: usize = 4;

    const SUMS: usize = 6;

    fn columns(rows: &Rows, at: usize, columns: &mut [[u32; LANES]]) {
        // SAFETY: code for `Avx2` is reached through `enter` alone.
        let done = unsafe { fours(rows, at, columns) };
        if done < columns.len() {
            Portable::columns(rows, at + done * 4, &mut columns[done..]);
        }
    }

    #[inline(always)]
    fn quantise(x: &[f32; BLOCK]) -> Quantised {
        // SAFETY: code for `Avx2` is reached through `enter` alone.
        unsafe { quantise(x) }
    }
}

/// As [`Simd::quantise`]; for AVX-512 too.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn quantise(x: &[f32; BLOCK]) -> Quantised {
    let mut eights = [_mm256_setzero_ps(); 4];
    for i in 0..4 {
        // SAFETY: a block is four times eight.
        eights[i] = unsafe { _mm256_loadu_ps(x.as_ptr().add(i * 8)) };
    }
    // As integers, magnitudes have the order of the numbers, and NaN is above them all.
    let size = |x| _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(i32::MAX));
    let low = _mm256_max_epi32(size(eights[0]), size(eights[1]));
    let high = _mm256_max_epi32(size(eights[2]), size(eights[3]));
    let largest = _mm256_max_epi32(low, high);
    let largest = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256::<1>(largest));
    let largest = _mm_max_epi32(largest, _mm_shuffle_epi32::<0b01_00_11_10>(largest));
    let largest = _mm_max_epi32(largest, _mm_shuffle_epi32::<0b10_11_00_01>(largest));
    let (scale, steps) = match steps(f32::from_bits(_mm_cvtsi128_si32(largest).cast_unsigned())) {
        Ok(steps) => steps,
        Err(nothing) => return nothing,
    };
    let steps = _mm256_set1_ps(steps);
    let round = |x| _mm256_cvtps_epi32(_mm256_mul_ps(x, steps));
    // Packing works within halves of a register, and leaves the order 0 2 4 6 1 3 5 7 of groups of four.
    let low = _mm256_packs_epi32(round(eights[0]), round(eights[1]));
    let high = _mm256_packs_epi32(round(eights[2]), round(eights[3]));
    let packed = _mm256_packs_epi16(low, high);
    let packed = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), packed);
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let eights = _mm256_hadd_epi32(fours, fours);
    let halves = _mm256_hadd_epi32(eights, eights);
    let sums = [_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves)];
    let mut bytes = [[0i8; 4]; BLOCK / 4];
    // SAFETY: as many bytes as a register has.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), packed) };
    Quantised { scale, bytes, sums: [_mm_cvtsi128_si32(sums[0]), _mm_cvtsi128_si32(sums[1])] }
}

/// Writes columns of words four by four, and returns how many. The last four may be some that are written already.
#[target_feature(enable = "avx2")]
fn fours(rows: &Rows, at: usize, columns: &mut [[u32; LANES]]) -> usize {
    let (starts, words) = rows.from(at);
    let whole = words.min(columns.len());
    if whole < 4 {
        return 0;
    }
    for first in (0..whole).step_by(4) {
        let column = first.min(whole - 4);
        for side in [0, 8] {
            let mut words = [_mm256_setzero_si256(); 4];
            for i in 0..4 {
                // SAFETY: the rows have four words at `column`.
                words[i] = unsafe {
                    let (low, high): (*const u8, *const u8) =
                        (starts[side + i].add(column * 4), starts[side + 4 + i].add(column * 4));
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
        (0, 16) => by_rows!(acc, N => signed_tile::<4, N>(tile, acc), 1 2 3 4),
        (0, _) => by_rows!(acc, N => signed_tile::<8, N>(tile, acc), 1 2 3 4),
        (1, 16) => by_rows!(acc, N => unsigned_tile::<1, 4, N>(tile, acc), 1 2 3 4),
        (1, _) => by_rows!(acc, N => unsigned_tile::<1, 8, N>(tile, acc), 1 2 3 4),
        (2..4, 16) => by_rows!(acc, N => unsigned_tile::<2, 4, N>(tile, acc), 1 2 3 4),
        (2..4, _) => by_rows!(acc, N => unsigned_tile::<2, 8, N>(tile, acc), 1 2 3 4),
        (_, 16) => by_rows!(acc, N => unsigned_tile::<4, 4, N>(tile, acc), 1 2 3 4),
        (4..8, _) => by_rows!(acc, N => unsigned_tile::<4, 8, N>(tile, acc), 1 2 3 4),
        (8.., _) => by_rows!(acc, N => unsigned_tile::<8, 8, N>(tile, acc), 1 2 3 4),
    }
}

/// For groups of `WORDS` times four columns, `FIT` of whose words have products that are summed up in 16 bits. Two rows
/// of activations at a time keep everything in registers.
#[target_feature(enable = "avx2,fma")]
fn unsigned_tile<const FIT: usize, const WORDS: usize, const N: usize>(tile: &IntTile, acc: &mut [[f32; LANES]; N]) {
    let ones = _mm256_set1_epi16(1);
    for group in 0..tile.scale.len() {
        for first in (0..N).step_by(2) {
            let rows = if first + 1 < N { 2 } else { 1 };
            let mut dots = [[_mm256_setzero_si256(); 2]; 2];
            for word in (0..WORDS).step_by(FIT) {
                let mut pairs = [[_mm256_setzero_si256(); 2]; 2];
                for word in group * WORDS + word..group * WORDS + word + FIT {
                    // SAFETY: the word is one of the tile's, and so are the rows.
                    let w = unsafe { codes(tile, word) };
                    for row in 0..rows {
                        // SAFETY: as above.
                        let x = unsafe { activations(tile, word * N + first + row) };
                        for side in 0..2 {
                            let product = _mm256_maddubs_epi16(w[side], x);
                            pairs[row][side] = _mm256_add_epi16(pairs[row][side], product);
                        }
                    }
                }
                for row in 0..rows {
                    for side in 0..2 {
                        let sums = _mm256_madd_epi16(pairs[row][side], ones);
                        dots[row][side] = _mm256_add_epi32(dots[row][side], sums);
                    }
                }
            }
            for row in 0..rows {
                let offset = _mm256_set1_epi32(tile.x.offset[group * N + first + row]);
                let dots = [_mm256_add_epi32(dots[row][0], offset), _mm256_add_epi32(dots[row][1], offset)];
                // SAFETY: the group is one of the tile's, and so is the row.
                unsafe { accumulate::<WORDS, N>(tile, group, first + row, dots, &mut acc[first + row]) };
            }
        }
    }
}

/// For codes whose products do not fit 16 bits: these count from 128, and are multiplied as the signed bytes they are
/// then, magnitudes by activations of their sign.
#[target_feature(enable = "avx2,fma")]
fn signed_tile<const WORDS: usize, const N: usize>(tile: &IntTile, acc: &mut [[f32; LANES]; N]) {
    let (ones, flip) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
    for group in 0..tile.scale.len() {
        for first in (0..N).step_by(2) {
            let rows = if first + 1 < N { 2 } else { 1 };
            let mut dots = [[_mm256_setzero_si256(); 2]; 2];
            for word in group * WORDS..(group + 1) * WORDS {
                // SAFETY: the word is one of the tile's, and so are the rows.
                let w = unsafe { codes(tile, word) };
                let w = [_mm256_xor_si256(w[0], flip), _mm256_xor_si256(w[1], flip)];
                let sizes = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
                for row in 0..rows {
                    // SAFETY: as above.
                    let x = unsafe { activations(tile, word * N + first + row) };
                    for side in 0..2 {
                        let pairs = _mm256_maddubs_epi16(sizes[side], _mm256_sign_epi8(x, w[side]));
                        dots[row][side] = _mm256_add_epi32(dots[row][side], _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
            for row in 0..rows {
                // SAFETY: the group is one of the tile's, and so is the row.
                unsafe { accumulate::<WORDS, N>(tile, group, first + row, dots[row], &mut acc[first + row]) };
            }
        }
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

/// Four activations, for each lane.
///
/// # Safety
/// `at` is one of the tile's.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn activations(tile: &IntTile, at: usize) -> __m256i {
    // SAFETY: as promised.
    _mm256_set1_epi32(unsafe { tile.x.bytes.as_ptr().add(at).cast::<i32>().read_unaligned() })
}

/// Scales a group's sums of products with a row of activations and adds them.
///
/// # Safety
/// `group` is one of the tile's, and so is `row`.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn accumulate<const WORDS: usize, const N: usize>(
    tile: &IntTile,
    group: usize,
    row: usize,
    dots: [__m256i; 2],
    acc: &mut [f32; LANES],
) {
    // SAFETY: as promised.
    let (scale, x_scale) =
        unsafe { (sides(tile.scale.get_unchecked(group)), *tile.x.scale.get_unchecked(group * WORDS / 8 * N + row)) };
    let x_scale = _mm256_set1_ps(x_scale);
    let mut sums = sides(acc);
    for side in 0..2 {
        sums[side] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[side]), _mm256_mul_ps(scale[side], x_scale), sums[side]);
    }
    if let Some(min) = tile.min {
        // SAFETY: as promised.
        let (min, x_sum) = unsafe { (sides(min.get_unchecked(group)), *tile.x.sum.get_unchecked(group * N + row)) };
        let x_sum = _mm256_set1_ps(x_sum);
        for side in 0..2 {
            sums[side] = _mm256_fmadd_ps(min[side], x_sum, sums[side]);
        }
    }
    keep(acc, sums);
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
pub(super) fn float_tile(tile: &FloatTile, acc: &mut [[f32; LANES]]) {
    by_rows!(acc, N => float_tile_of::<N, { chains(N) }>(tile, acc), 1 2 3 4 5 6);
}

/// How many chains go side by side, so that additions need not wait for each other.
const fn chains(rows: usize) -> usize {
    match rows {
        1 => 4,
        2 => 2,
        _ => 1,
    }
}

#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn add_chains<const N: usize, const CHAINS: usize>(w: &[[f32; LANES]], x: &[f32], acc: &mut [[f32; LANES]; N]) {
    let mut sums = [[[_mm256_setzero_ps(); 2]; N]; CHAINS];
    for k in 0..w.len() / CHAINS {
        for chain in 0..CHAINS {
            let at = chain * CHAIN + k;
            // SAFETY: as promised.
            let w = sides(unsafe { w.get_unchecked(at) });
            for n in 0..N {
                // SAFETY: as promised.
                let x = _mm256_set1_ps(unsafe { *x.get_unchecked(at * N + n) });
                let sum = &mut sums[chain][n];
                *sum = [_mm256_fmadd_ps(w[0], x, sum[0]), _mm256_fmadd_ps(w[1], x, sum[1])];
            }
        }
    }
    for sums in sums {
        for n in 0..N {
            let before = sides(&acc[n]);
            keep(&mut acc[n], [_mm256_add_ps(before[0], sums[n][0]), _mm256_add_ps(before[1], sums[n][1])]);
        }
    }
}
