//! Lanes in one register.

use std::arch::x86_64::*;

use crate::simd::lanes::LARGEST_HALF;
use crate::simd::{LANES, Lanes};

/// Sixteen lanes. There are none but in code for AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct Whole(__m512i);

macro_rules! whole {
    ($operation:expr) => {{
        // SAFETY: the instructions are there, or no `Whole` would be.
        Whole(unsafe { $operation })
    }};
    (float $operation:ident($self:ident, $other:ident)) => {
        whole!(_mm512_castps_si512($operation(_mm512_castsi512_ps($self.0), _mm512_castsi512_ps($other.0))))
    };
}

impl Lanes for Whole {
    #[inline(always)]
    fn load(words: &[u32; LANES]) -> Self {
        // SAFETY: code with `Whole` runs where the instructions are; sixteen words.
        Self(unsafe { _mm512_loadu_si512(words.as_ptr().cast()) })
    }

    #[inline(always)]
    fn store(self, words: &mut [u32; LANES]) {
        // SAFETY: the instructions are there; sixteen words.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), self.0) }
    }

    #[inline(always)]
    fn words(bytes: &[u8; 4 * LANES]) -> Self {
        // SAFETY: code with `Whole` runs where the instructions are; sixteen words.
        Self(unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) })
    }

    #[inline(always)]
    fn lower(bytes: &[u8; 2 * LANES]) -> Self {
        // SAFETY: code with `Whole` runs where the instructions are; sixteen halves.
        Self(unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast())) })
    }

    #[inline(always)]
    fn bytes(bytes: &[u8; LANES]) -> Self {
        // SAFETY: code with `Whole` runs where the instructions are; sixteen bytes.
        Self(unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())) })
    }

    #[inline(always)]
    fn splat(word: u32) -> Self {
        // SAFETY: code with `Whole` runs where the instructions are.
        Self(unsafe { _mm512_set1_epi32(word.cast_signed()) })
    }

    #[inline(always)]
    fn widened(halves: &[u16; LANES]) -> Self {
        whole!(_mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast()))))
    }

    #[inline(always)]
    fn narrowed(self) -> [u16; LANES] {
        let mut halves = [0; LANES];
        // SAFETY: the instructions are there; sixteen halves.
        unsafe {
            // NaN, as the second of two, stays.
            let x = _mm512_min_ps(_mm512_set1_ps(LARGEST_HALF), _mm512_castsi512_ps(self.0));
            let x = _mm512_max_ps(_mm512_set1_ps(-LARGEST_HALF), x);
            let narrowed = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
            _mm256_storeu_si256(halves.as_mut_ptr().cast(), narrowed);
        }
        halves
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        whole!(_mm512_and_si512(self.0, other.0))
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        whole!(_mm512_or_si512(self.0, other.0))
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        whole!(_mm512_xor_si512(self.0, other.0))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        whole!(_mm512_add_epi32(self.0, other.0))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        whole!(_mm512_sub_epi32(self.0, other.0))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        whole!(_mm512_max_epu32(self.0, other.0))
    }

    #[inline(always)]
    fn shl(self, count: u32) -> Self {
        whole!(_mm512_sll_epi32(self.0, _mm_cvtsi32_si128(count.cast_signed())))
    }

    #[inline(always)]
    fn shr(self, count: u32) -> Self {
        whole!(_mm512_srl_epi32(self.0, _mm_cvtsi32_si128(count.cast_signed())))
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16]) -> Self {
        whole!(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), self.0))
    }

    #[inline(always)]
    fn float(self) -> Self {
        whole!(_mm512_castps_si512(_mm512_cvtepi32_ps(self.0)))
    }

    #[inline(always)]
    fn half(self) -> Self {
        whole!(_mm512_castps_si512(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(self.0))))
    }

    #[inline(always)]
    fn mul_float(self, other: Self) -> Self {
        whole!(float _mm512_mul_ps(self, other))
    }

    #[inline(always)]
    fn add_float(self, other: Self) -> Self {
        whole!(float _mm512_add_ps(self, other))
    }

    #[inline(always)]
    fn sub_float(self, other: Self) -> Self {
        whole!(float _mm512_sub_ps(self, other))
    }

    #[inline(always)]
    fn fused(self, factor: Self, other: Self) -> Self {
        whole!(_mm512_castps_si512(_mm512_fmadd_ps(
            _mm512_castsi512_ps(self.0),
            _mm512_castsi512_ps(factor.0),
            _mm512_castsi512_ps(other.0),
        )))
    }

    #[inline(always)]
    fn dot(self, codes: Self, x: Self) -> Self {
        whole!(_mm512_dpbusd_epi32(self.0, codes.0, x.0))
    }

    #[inline(always)]
    fn dot_wide(self, codes: Self, x: Self) -> Self {
        self.dot(codes, x)
    }

    const WIDE_IS_SIGNED: bool = false;
}
