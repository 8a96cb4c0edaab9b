//! Floating-point numbers of all sizes.

use crate::simd::{Ahead, LANES, Lanes, Rows, Simd};

/// What is read.
pub(crate) struct Source<'a, 'w> {
    pub rows: &'a Rows<'w>,
    /// The first column, and how many.
    pub first: usize,
    pub count: usize,
    /// Called to the cache meanwhile.
    pub ahead: &'a mut Ahead<'w>,
}

/// A format whose values are floating-point numbers.
pub(crate) trait Floats {
    /// Writes columns to `out`, and up to three without meaning behind them. `room` has a word for each column and one
    /// more.
    fn read<S: Simd>(&self, from: Source, room: &mut [[u32; LANES]], out: &mut [[f32; LANES]]);
}

pub(crate) struct F32;

pub(crate) struct F16;

pub(crate) struct BF16;

/// With elements per scale.
pub(crate) struct F8E4M3(pub usize);

impl Floats for F32 {
    #[inline(always)]
    fn read<S: Simd>(&self, from: Source, _: &mut [[u32; LANES]], out: &mut [[f32; LANES]]) {
        S::columns(from.rows, from.first * 4, bytemuck::cast_slice_mut(&mut out[..from.count]), from.ahead);
    }
}

#[inline(always)]
fn store<L: Lanes>(value: L, out: &mut [f32; LANES]) {
    value.store(bytemuck::cast_mut(out));
}

impl Floats for F16 {
    #[inline(always)]
    fn read<S: Simd>(&self, from: Source, room: &mut [[u32; LANES]], out: &mut [[f32; LANES]]) {
        let words = &mut room[..from.count.div_ceil(2)];
        S::columns(from.rows, from.first * 2, words, from.ahead);
        for (out, word) in out.as_chunks_mut::<2>().0.iter_mut().zip(words) {
            let word = S::Lanes::load(word);
            store(word.half(), &mut out[0]);
            store(word.shr(16).half(), &mut out[1]);
        }
    }
}

impl Floats for BF16 {
    #[inline(always)]
    fn read<S: Simd>(&self, from: Source, room: &mut [[u32; LANES]], out: &mut [[f32; LANES]]) {
        let words = &mut room[..from.count.div_ceil(2)];
        S::columns(from.rows, from.first * 2, words, from.ahead);
        for (out, word) in out.as_chunks_mut::<2>().0.iter_mut().zip(words) {
            let word = S::Lanes::load(word);
            store(word.shl(16), &mut out[0]);
            store(word.and(S::Lanes::splat(0xffff_0000)), &mut out[1]);
        }
    }
}

impl Floats for F8E4M3 {
    #[inline(always)]
    fn read<S: Simd>(&self, from: Source, room: &mut [[u32; LANES]], out: &mut [[f32; LANES]]) {
        let block = self.0;
        let mut done = 0;
        while done < from.count {
            let (number, inside) = ((from.first + done) / block, (from.first + done) % block);
            let width = (block - inside).min(from.count - done);
            let at = number * (block + 4);
            let (scale, room) = room.split_at_mut(1);
            let words = &mut room[..width.div_ceil(4)];
            S::columns(from.rows, at, scale, from.ahead);
            S::columns(from.rows, at + 4 + inside, words, from.ahead);
            // What `halves` gives is 2^-8 of an element.
            let scale = S::Lanes::load(&scale[0]).mul_float(S::Lanes::splat(256f32.to_bits()));
            for (out, word) in out[done..].as_chunks_mut::<4>().0.iter_mut().zip(words) {
                let word = S::Lanes::load(word);
                let (even, odd) = (halves(word.shl(8)), halves(word));
                store(even.half().mul_float(scale), &mut out[0]);
                store(odd.half().mul_float(scale), &mut out[1]);
                store(even.shr(16).half().mul_float(scale), &mut out[2]);
                store(odd.shr(16).half().mul_float(scale), &mut out[3]);
            }
            done += width;
        }
    }
}

/// Bytes 1 and 3 of each word, which are OCP E4M3, as binary16: the number with the same bits of exponent and fraction,
/// which is 2^-8 of it, subnormal ones too. Where all bits except the sign are set it is NaN.
#[inline(always)]
fn halves<L: Lanes>(word: L) -> L {
    let magnitude = word.shr(1).and(L::splat(0x3f80_3f80));
    let nan = magnitude.add(L::splat(0x0080_0080)).and(L::splat(0x4000_4000));
    magnitude.or(nan).or(word.and(L::splat(0x8000_8000)))
}
