//! Panels: sixteen rows of weights side by side, so that a lane is an output and every output has its own sum.

use crate::blocks::{Blocks, Codes, ForBlocks, Groups};
use crate::floats::{BF16, F8E4M3, F16, F32, Floats};
use crate::simd::{self, LANES, Level, Simd, Work};
use crate::{Format, Weights};

/// Columns of an integer panel at most; it and a tile of activations share the first cache.
pub(crate) const INT_COLS: usize = 1024;

/// Columns of a float panel at most.
pub(crate) const FLOAT_COLS: usize = 256;

/// Columns that are unpacked before they are put side by side.
const STEP: usize = 256;

/// Room to make a panel in.
#[repr(C, align(64))]
pub(crate) struct Panel {
    pub codes: [[u32; LANES]; INT_COLS / 4],
    pub scale: [[f32; LANES]; INT_COLS / 16],
    pub min: [[f32; LANES]; INT_COLS / 16],
    pub floats: [[f32; LANES]; FLOAT_COLS],
    /// 64 words of each row: 256 codes, or 64 floats.
    rows: [[u32; 64]; LANES],
}

// SAFETY: arrays of numbers, each a multiple of 64 bytes long, so that there is no padding.
unsafe impl bytemuck::Zeroable for Panel {}

/// What a panel is made of: some columns of up to sixteen rows.
#[derive(Clone, Copy)]
pub(crate) struct Slab<'a> {
    pub format: Format,
    /// The rows, whole ones.
    pub bytes: &'a [u8],
    pub row_bytes: usize,
    /// The first row of the matrix, and how many there are; lanes without a row repeat the last one.
    pub row: usize,
    pub rows: usize,
    /// The first column, and how many.
    pub first: usize,
    pub cols: usize,
}

impl<'a> Slab<'a> {
    /// The slabs of panel `panel` of matrix `matrix` of a stack, with `most` columns each.
    pub fn of(w: &Weights<'a>, matrix: usize, panel: usize, most: usize) -> impl Iterator<Item = Self> + use<'a> {
        let (format, cols, row_bytes) = (w.format, w.cols, w.row_bytes());
        let row = panel * LANES;
        let rows = LANES.min(w.rows - row);
        let bytes = w.rows_at(matrix * w.rows + row, rows);
        (0..cols).step_by(most).map(move |first| {
            let cols = most.min(cols - first);
            Self { format, bytes, row_bytes, row, rows, first, cols }
        })
    }

    #[inline(always)]
    fn lane(&self, lane: usize) -> &'a [u8] {
        &self.bytes[lane.min(self.rows - 1) * self.row_bytes..][..self.row_bytes]
    }
}

impl Panel {
    pub fn new() -> Box<Self> {
        bytemuck::zeroed_box()
    }

    /// Makes a panel of codes, of a format of integers.
    pub fn unpack(&mut self, level: Level, slab: &Slab) {
        let made = slab.format.with_blocks(Unpack { panel: self, level, slab });
        made.unwrap_or_else(|| unreachable!("{} has no codes", slab.format));
    }

    /// Makes a panel of floats.
    pub fn widen(&mut self, level: Level, slab: &Slab) {
        match slab.format {
            Format::F32 => simd::run(level, Convert { panel: self, slab, format: F32 }),
            Format::F16 => simd::run(level, Convert { panel: self, slab, format: F16 }),
            Format::BF16 => simd::run(level, Convert { panel: self, slab, format: BF16 }),
            Format::F8E4M3 { block } => {
                simd::run(level, Convert { panel: self, slab, format: F8E4M3(block.into()) });
            }
            _ => {
                self.unpack(level, slab);
                let codes = slab.format.codes().expect("the others are integers");
                simd::run(level, Widen { panel: self, codes, cols: slab.cols });
            }
        }
    }

    #[inline(always)]
    fn transpose<S: Simd>(rows: &[[u32; 64]; LANES], count: usize, columns: &mut [[u32; LANES]]) {
        S::transpose(&rows.each_ref().map(|row| bytemuck::cast_slice(row)), count, columns);
    }
}

struct Unpack<'a> {
    panel: &'a mut Panel,
    level: Level,
    slab: &'a Slab<'a>,
}

impl ForBlocks for Unpack<'_> {
    type Out = ();

    fn run<F: Blocks>(self) {
        simd::run(self.level, UnpackAs::<F> { panel: self.panel, slab: self.slab, format: std::marker::PhantomData });
    }
}

struct UnpackAs<'a, F> {
    panel: &'a mut Panel,
    slab: &'a Slab<'a>,
    format: std::marker::PhantomData<F>,
}

impl<F: Blocks> Work for UnpackAs<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { panel, slab, .. } = self;
        let mut groups = Groups::default();
        for start in (0..slab.cols).step_by(STEP) {
            let width = STEP.min(slab.cols - start);
            for lane in 0..LANES {
                let codes: &mut [u8] = bytemuck::cast_slice_mut(&mut panel.rows[lane]);
                let first = (slab.first + start) / F::BLOCK;
                let blocks = slab.lane(lane)[first * F::BYTES..][..width / F::BLOCK * F::BYTES].chunks_exact(F::BYTES);
                for (block, bytes) in blocks.enumerate() {
                    F::unpack::<S>(bytes, &mut codes[block * F::BLOCK..][..F::BLOCK], &mut groups);
                    let group = (start + block * F::BLOCK) / F::GROUP;
                    for i in 0..F::BLOCK / F::GROUP {
                        panel.scale[group + i][lane] = groups.scale[i];
                        if F::MINIMUM {
                            panel.min[group + i][lane] = groups.min[i];
                        }
                    }
                }
            }
            Panel::transpose::<S>(&panel.rows, width / 4, &mut panel.codes[start / 4..]);
        }
    }
}

/// Codes to floats.
struct Widen<'a> {
    panel: &'a mut Panel,
    codes: Codes,
    cols: usize,
}

impl Work for Widen<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { panel, codes: Codes { group, offset, minimum, .. }, cols } = self;
        for (word, floats) in panel.floats[..cols].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let (codes, scale, min) = (&panel.codes[word], &panel.scale[word * 4 / group], &panel.min[word * 4 / group]);
            for (byte, floats) in floats.iter_mut().enumerate() {
                for lane in 0..LANES {
                    let code = (codes[lane] >> (byte * 8) & 255).cast_signed() - i32::from(offset);
                    floats[lane] = code as f32 * scale[lane];
                }
                if minimum {
                    for lane in 0..LANES {
                        floats[lane] += min[lane];
                    }
                }
            }
        }
    }
}

/// Small floats to floats.
struct Convert<'a, F> {
    panel: &'a mut Panel,
    slab: &'a Slab<'a>,
    format: F,
}

impl<F: Floats> Work for Convert<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { panel, slab, format } = self;
        for start in (0..slab.cols).step_by(64) {
            let width = 64.min(slab.cols - start);
            for lane in 0..LANES {
                let floats: &mut [f32] = bytemuck::cast_slice_mut(&mut panel.rows[lane]);
                format.read(slab.lane(lane), slab.first + start, &mut floats[..width]);
            }
            Panel::transpose::<S>(&panel.rows, width, bytemuck::cast_slice_mut(&mut panel.floats[start..]));
        }
    }
}
