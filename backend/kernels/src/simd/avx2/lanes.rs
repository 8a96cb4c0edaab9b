//! Lanes in two registers.

use std::arch::x86_64::*;

use crate::simd::lanes::LARGEST_HALF;
use crate::simd::{LANES, Lanes};

/// Eight lanes, and eight more. There are none but in code for AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Halves(__m256i, __m256i);

/// The same operation on both halves.
macro_rules! both {
    ($self:ident, $word:ident => $operation:expr) => {{
        // SAFETY: the instructions are there, or no `Halves` would be.
        unsafe {
            Halves(
                {
                    let $word = $self.0;
                    $operation
                },
                {
                    let $word = $self.1;
                    $operation
                },
            )
        }
    }};
    ($self:ident, $other:ident, $operation:ident) => {{
        // SAFETY: the instructions are there, or no `Halves` would be.
        unsafe { Halves($operation($self.0, $other.0), $operation($self.1, $other.1)) }
    }};
    (float $self:ident, $other:ident, $operation:ident) => {{
        // SAFETY: the instructions are there, or no `Halves` would be.
        unsafe {
            Halves(
                _mm256_castps_si256($operation(_mm256_castsi256_ps($self.0), _mm256_castsi256_ps($other.0))),
                _mm256_castps_si256($operation(_mm256_castsi256_ps($self.1), _mm256_castsi256_ps($other.1))),
            )
        }
    }};
}

impl Lanes for Halves {
    #[inline(always)]
    fn load(words: &[u32; LANES]) -> Self {
        let start = words.as_ptr();
        // SAFETY: code with `Halves` runs where the instructions are; eight of sixteen words, and the other eight.
        unsafe { Self(_mm256_loadu_si256(start.cast()), _mm256_loadu_si256(start.add(8).cast())) }
    }

    #[inline(always)]
    fn store(self, words: &mut [u32; LANES]) {
        let start = words.as_mut_ptr();
        // SAFETY: the instructions are there; eight of sixteen words, and the other eight.
        unsafe {
            _mm256_storeu_si256(start.cast(), self.0);
            _mm256_storeu_si256(start.add(8).cast(), self.1);
        }
    }

    #[inline(always)]
    fn words(bytes: &[u8; 4 * LANES]) -> Self {
        let start = bytes.as_ptr();
        // SAFETY: code with `Halves` runs where the instructions are; eight of sixteen words, and the other eight.
        unsafe { Self(_mm256_loadu_si256(start.cast()), _mm256_loadu_si256(start.add(32).cast())) }
    }

    #[inline(always)]
    fn lower(bytes: &[u8; 2 * LANES]) -> Self {
        let start = bytes.as_ptr();
        // SAFETY: code with `Halves` runs where the instructions are; eight of sixteen halves, and the other eight.
        unsafe {
            Self(
                _mm256_cvtepu16_epi32(_mm_loadu_si128(start.cast())),
                _mm256_cvtepu16_epi32(_mm_loadu_si128(start.add(16).cast())),
            )
        }
    }

    #[inline(always)]
    fn bytes(bytes: &[u8; LANES]) -> Self {
        let start = bytes.as_ptr();
        // SAFETY: code with `Halves` runs where the instructions are; eight of sixteen bytes, and the other eight.
        unsafe {
            Self(
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(start.cast())),
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(start.add(8).cast())),
            )
        }
    }

    #[inline(always)]
    fn splat(word: u32) -> Self {
        // SAFETY: code with `Halves` runs where the instructions are.
        let word = unsafe { _mm256_set1_epi32(word.cast_signed()) };
        Self(word, word)
    }

    #[inline(always)]
    fn widened(halves: &[u16; LANES]) -> Self {
        let start = halves.as_ptr();
        // SAFETY: code with `Halves` runs where the instructions are; eight of sixteen halves, and the other eight.
        unsafe {
            Self(
                _mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128(start.cast()))),
                _mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128(start.add(8).cast()))),
            )
        }
    }

    #[inline(always)]
    fn narrowed(self) -> [u16; LANES] {
        let mut halves = [0; LANES];
        let start = halves.as_mut_ptr();
        // SAFETY: the instructions are there; eight of sixteen halves, and the other eight.
        unsafe {
            let (low, high) = (_mm256_set1_ps(-LARGEST_HALF), _mm256_set1_ps(LARGEST_HALF));
            // NaN, as the second of two, stays.
            let narrowed = |x| {
                let x = _mm256_max_ps(low, _mm256_min_ps(high, _mm256_castsi256_ps(x)));
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)
            };
            _mm_storeu_si128(start.cast(), narrowed(self.0));
            _mm_storeu_si128(start.add(8).cast(), narrowed(self.1));
        }
        halves
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        both!(self, other, _mm256_and_si256)
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        both!(self, other, _mm256_or_si256)
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        both!(self, other, _mm256_xor_si256)
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        both!(self, other, _mm256_add_epi32)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        both!(self, other, _mm256_sub_epi32)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        both!(self, other, _mm256_max_epu32)
    }

    #[inline(always)]
    fn shl(self, count: u32) -> Self {
        both!(self, word => _mm256_sll_epi32(word, _mm_cvtsi32_si128(count.cast_signed())))
    }

    #[inline(always)]
    fn shr(self, count: u32) -> Self {
        both!(self, word => _mm256_srl_epi32(word, _mm_cvtsi32_si128(count.cast_signed())))
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16]) -> Self {
        both!(self, word => {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, word)
        })
    }

    #[inline(always)]
    fn float(self) -> Self {
        both!(self, word => _mm256_castps_si256(_mm256_cvtepi32_ps(word)))
    }

    #[inline(always)]
    fn half(self) -> Self {
        // SAFETY: the instructions are there.
        unsafe {
            let low = _mm256_set1_epi32(0xffff);
            let packed = _mm256_packus_epi32(_mm256_and_si256(self.0, low), _mm256_and_si256(self.1, low));
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            Self(
                _mm256_castps_si256(_mm256_cvtph_ps(_mm256_castsi256_si128(packed))),
                _mm256_castps_si256(_mm256_cvtph_ps(_mm256_extracti128_si256::<1>(packed))),
            )
        }
    }

    #[inline(always)]
    fn mul_float(self, other: Self) -> Self {
        both!(float self, other, _mm256_mul_ps)
    }

    #[inline(always)]
    fn add_float(self, other: Self) -> Self {
        both!(float self, other, _mm256_add_ps)
    }

    #[inline(always)]
    fn sub_float(self, other: Self) -> Self {
        both!(float self, other, _mm256_sub_ps)
    }

    #[inline(always)]
    fn fused(self, factor: Self, other: Self) -> Self {
        // SAFETY: the instructions are there.
        unsafe {
            let fused = |a, b, c| {
                let (a, b, c) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), _mm256_castsi256_ps(c));
                _mm256_castps_si256(_mm256_fmadd_ps(a, b, c))
            };
            Self(fused(self.0, factor.0, other.0), fused(self.1, factor.1, other.1))
        }
    }

    #[inline(always)]
    fn dot(self, codes: Self, x: Self) -> Self {
        // SAFETY: the instructions are there.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let dot = |acc, codes, x| _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), ones));
            Self(dot(self.0, codes.0, x.0), dot(self.1, codes.1, x.1))
        }
    }

    #[inline(always)]
    fn dot_wide(self, codes: Self, x: Self) -> Self {
        // SAFETY: the instructions are there.
        unsafe {
            let (ones, flip) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
            let dot = |acc, codes, x| {
                let codes = _mm256_xor_si256(codes, flip);
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes));
                _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, ones))
            };
            Self(dot(self.0, codes.0, x.0), dot(self.1, codes.1, x.1))
        }
    }

    const WIDE_IS_SIGNED: bool = true;
}
