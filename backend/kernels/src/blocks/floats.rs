//! Floating-point numbers of all sizes.

use super::Raw;
use crate::simd::{Ahead, LANES, Lanes, Rows, Simd};

/// Where columns are read.
pub(crate) struct Source<'a, 'w> {
    pub rows: &'a Rows<'w>,
    /// The first column.
    pub first: usize,
    /// Called to the cache meanwhile.
    pub ahead: &'a mut Ahead<'w>,
}

/// A format whose values are floating-point numbers.
pub(crate) trait Floats {
    /// Writes as many columns as `out` has. `room` has a word for each of them and one more.
    fn read<S: Simd>(&self, from: &mut Source, room: &mut [[u32; LANES]], out: &mut [[f32; LANES]]);
}

pub(crate) struct F32;

pub(crate) struct F16;

pub(crate) struct BF16;

/// With elements per scale.
pub(crate) struct F8E4M3(pub usize);

impl Floats for F32 {
    #[inline(always)]
    fn read<S: Simd>(&self, from: &mut Source, _: &mut [[u32; LANES]], out: &mut [[f32; LANES]]) {
        S::columns(from.rows, from.first * 4, bytemuck::cast_slice_mut(out), from.ahead);
    }
}

impl Floats for F16 {
    #[inline(always)]
    fn read<S: Simd>(&self, from: &mut Source, room: &mut [[u32; LANES]], out: &mut [[f32; LANES]]) {
        let words = out.len().div_ceil(2);
        S::columns(from.rows, from.first * 2, &mut room[..words], from.ahead);
        for (out, word) in out.chunks_mut(2).zip(room) {
            let word = S::Lanes::load(word);
            for (i, out) in out.iter_mut().enumerate() {
                word.shr(i as u32 * 16).half().store(bytemuck::cast_mut(out));
            }
        }
    }
}

impl Floats for BF16 {
    #[inline(always)]
    fn read<S: Simd>(&self, from: &mut Source, room: &mut [[u32; LANES]], out: &mut [[f32; LANES]]) {
        let words = out.len().div_ceil(2);
        S::columns(from.rows, from.first * 2, &mut room[..words], from.ahead);
        for (out, word) in out.chunks_mut(2).zip(room) {
            let word = S::Lanes::load(word);
            for (i, out) in out.iter_mut().enumerate() {
                word.shr(i as u32 * 16).shl(16).store(bytemuck::cast_mut(out));
            }
        }
    }
}

impl Floats for F8E4M3 {
    #[inline(always)]
    fn read<S: Simd>(&self, from: &mut Source, room: &mut [[u32; LANES]], out: &mut [[f32; LANES]]) {
        let block = self.0;
        let mut done = 0;
        while done < out.len() {
            let (number, inside) = ((from.first + done) / block, (from.first + done) % block);
            let width = (block - inside).min(out.len() - done);
            let at = number * (block + 4);
            let (scale, words) = room.split_at_mut(1);
            S::columns(from.rows, at, scale, from.ahead);
            S::columns(from.rows, at + 4 + inside, &mut words[..width.div_ceil(4)], from.ahead);
            let scale = S::Lanes::load(&scale[0]);
            let raw = Raw { words, at: 0, aligned: true };
            for (word, out) in out[done..done + width].chunks_mut(4).enumerate() {
                let word: S::Lanes = raw.word(word * 4);
                for (i, out) in out.iter_mut().enumerate() {
                    let value = e4m3(word.shr(i as u32 * 8)).mul_float(scale);
                    value.store(bytemuck::cast_mut(out));
                }
            }
            done += width;
        }
    }
}

/// The lowest bytes, OCP E4M3: no infinities, and NaN where all bits but the sign are set.
#[inline(always)]
fn e4m3<L: Lanes>(word: L) -> L {
    let magnitude = word.and(L::splat(0x7f));
    // Subnormals are their fraction times 2^-9.
    let small = magnitude.float().mul_float(L::splat(118 << 23));
    let large = magnitude.shl(20).add(L::splat(120 << 23));
    let value = large.where_not_zero(magnitude.and(L::splat(0x78)), small);
    let value = value.where_not_zero(magnitude.xor(L::splat(0x7f)), L::splat(f32::NAN.to_bits()));
    value.or(word.and(L::splat(0x80)).shl(24))
}
