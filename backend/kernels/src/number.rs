//! Numbers as they are kept: f32, or f16 in half the bytes. They are computed with as f32 either way.

use half::f16;

use crate::simd::{LANES, Lanes, Rows, Simd};

/// Numbers as they are kept.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

/// Numbers that are written: [`f16`] become the nearest to what is written, halves to even, and at most the largest finite
/// one of its sign; NaN stays NaN.
#[derive(Debug)]
pub enum NumbersMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
}

/// What kernels need of a kind of numbers.
pub(crate) trait Number: Copy + Default + Send + Sync {
    fn wide(self) -> f32;

    fn read<L: Lanes>(numbers: &[Self; LANES]) -> L;

    fn write<L: Lanes>(lanes: L, numbers: &mut [Self; LANES]);

    /// One number of each of sixteen rows side by side, from the first of the rows on: as many columns as there are.
    fn columns<S: Simd>(rows: [&[Self]; LANES], columns: &mut [[f32; LANES]]);
}

impl Number for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn read<L: Lanes>(numbers: &[Self; LANES]) -> L {
        L::load(bytemuck::cast_ref(numbers))
    }

    #[inline(always)]
    fn write<L: Lanes>(lanes: L, numbers: &mut [Self; LANES]) {
        lanes.store(bytemuck::cast_mut(numbers));
    }

    #[inline(always)]
    fn columns<S: Simd>(rows: [&[Self]; LANES], columns: &mut [[f32; LANES]]) {
        let rows = Rows { lanes: rows.map(bytemuck::cast_slice) };
        S::columns(&rows, 0, bytemuck::cast_slice_mut(columns));
    }
}

impl Number for f16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn read<L: Lanes>(numbers: &[Self; LANES]) -> L {
        L::widened(bytemuck::cast_ref(numbers))
    }

    #[inline(always)]
    fn write<L: Lanes>(lanes: L, numbers: &mut [Self; LANES]) {
        *numbers = lanes.narrowed().map(f16::from_bits);
    }

    #[inline(always)]
    fn columns<S: Simd>(rows: [&[Self]; LANES], columns: &mut [[f32; LANES]]) {
        /// Columns that are read at a time, two in a word.
        const COLS: usize = 64;
        let rows = Rows { lanes: rows.map(bytemuck::cast_slice) };
        let mut words = [[0; LANES]; COLS / 2];
        for (i, columns) in columns.chunks_mut(COLS).enumerate() {
            let words = &mut words[..columns.len().div_ceil(2)];
            S::columns(&rows, i * COLS * size_of::<Self>(), words);
            for (pair, word) in columns.chunks_mut(2).zip(words) {
                let word = S::Lanes::load(word);
                word.half().store(bytemuck::cast_mut(&mut pair[0]));
                if let Some(second) = pair.get_mut(1) {
                    word.shr(16).half().store(bytemuck::cast_mut(second));
                }
            }
        }
    }
}
