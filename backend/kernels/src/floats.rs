//! Rows of floating-point numbers of all sizes.

use crate::number;

/// A format whose values are floating-point numbers.
pub(crate) trait Floats {
    /// Writes as many elements of a row as `out` has, from `first` on.
    fn read(&self, row: &[u8], first: usize, out: &mut [f32]);
}

pub(crate) struct F32;

pub(crate) struct F16;

pub(crate) struct BF16;

/// With elements per scale.
pub(crate) struct F8E4M3(pub usize);

impl Floats for F32 {
    #[inline(always)]
    fn read(&self, row: &[u8], first: usize, out: &mut [f32]) {
        let row = row.as_chunks().0[first..].iter();
        out.iter_mut().zip(row).for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes));
    }
}

impl Floats for F16 {
    #[inline(always)]
    fn read(&self, row: &[u8], first: usize, out: &mut [f32]) {
        let row = row.as_chunks().0[first..].iter();
        out.iter_mut().zip(row).for_each(|(out, bytes)| *out = number::f16(u16::from_le_bytes(*bytes)));
    }
}

impl Floats for BF16 {
    #[inline(always)]
    fn read(&self, row: &[u8], first: usize, out: &mut [f32]) {
        let row = row.as_chunks().0[first..].iter();
        out.iter_mut().zip(row).for_each(|(out, bytes)| *out = number::bf16(u16::from_le_bytes(*bytes)));
    }
}

impl Floats for F8E4M3 {
    #[inline(always)]
    fn read(&self, row: &[u8], first: usize, out: &mut [f32]) {
        let (mut column, mut out) = (first, out);
        while !out.is_empty() {
            let (block, inside) = (column / self.0, column % self.0);
            let width = (self.0 - inside).min(out.len());
            let bytes = &row[block * (self.0 + 4)..][..self.0 + 4];
            let (scale, elements) = bytes.split_first_chunk().expect("a scale");
            let scale = f32::from_le_bytes(*scale);
            let (now, later) = out.split_at_mut(width);
            now.iter_mut().zip(&elements[inside..]).for_each(|(out, bits)| *out = scale * number::e4m3(*bits));
            (column, out) = (column + width, later);
        }
    }
}
