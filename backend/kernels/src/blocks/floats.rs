//! Floating-point numbers of all sizes.

use crate::simd::{LANES, Lanes};

/// A format whose values are floating-point numbers.
pub(crate) trait Floats {
    /// Writes the columns of a packed panel from `first` on.
    fn read<L: Lanes>(&self, panel: &[u8], first: usize, out: &mut [[f32; LANES]]);
}

pub(crate) struct F32;

pub(crate) struct F16;

pub(crate) struct BF16;

/// With elements per scale.
pub(crate) struct F8E4M3(pub usize);

/// Writes a column for each unit of `N` bytes.
#[inline(always)]
fn columns<L: Lanes, const N: usize>(units: &[u8], out: &mut [[f32; LANES]], value: impl Fn(&[u8; N]) -> L) {
    for (unit, out) in units.as_chunks().0.iter().zip(out) {
        value(unit).store(bytemuck::cast_mut(out));
    }
}

impl Floats for F32 {
    #[inline(always)]
    fn read<L: Lanes>(&self, panel: &[u8], first: usize, out: &mut [[f32; LANES]]) {
        columns(&panel[first * 4 * LANES..], out, L::words);
    }
}

impl Floats for F16 {
    #[inline(always)]
    fn read<L: Lanes>(&self, panel: &[u8], first: usize, out: &mut [[f32; LANES]]) {
        columns(&panel[first * 2 * LANES..], out, |unit| L::lower(unit).half());
    }
}

impl Floats for BF16 {
    #[inline(always)]
    fn read<L: Lanes>(&self, panel: &[u8], first: usize, out: &mut [[f32; LANES]]) {
        columns(&panel[first * 2 * LANES..], out, |unit| L::lower(unit).shl(16));
    }
}

impl Floats for F8E4M3 {
    #[inline(always)]
    fn read<L: Lanes>(&self, panel: &[u8], first: usize, mut out: &mut [[f32; LANES]]) {
        let block = self.0;
        let mut skipped = first % block;
        for bytes in panel[first / block * (4 + block) * LANES..].chunks_exact((4 + block) * LANES) {
            let (scale, elements) = bytes.split_first_chunk().expect("a scale");
            // What `half` gives is 2^-8 of an element.
            let scale = L::words(scale).mul_float(L::splat(256f32.to_bits()));
            let (now, later) = out.split_at_mut((block - skipped).min(out.len()));
            columns(&elements[skipped * LANES..], now, |unit| half(L::bytes(unit)).half().mul_float(scale));
            (out, skipped) = (later, 0);
            if out.is_empty() {
                return;
            }
        }
    }
}

/// OCP E4M3 as binary16: the number with the same bits of exponent and fraction, which is 2^-8 of it, subnormal ones
/// too. Where all bits except the sign are set it is NaN.
#[inline(always)]
fn half<L: Lanes>(byte: L) -> L {
    let magnitude = byte.shl(7).and(L::splat(0x3f80));
    let nan = magnitude.add(L::splat(0x0080)).and(L::splat(0x4000));
    magnitude.or(nan).or(byte.shl(8).and(L::splat(0x8000)))
}
