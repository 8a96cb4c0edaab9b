//! Panels: sixteen rows of weights side by side, so that a lane is an output and every output has its own sum.

use std::marker::PhantomData;

use crate::blocks::{BF16, Blocks, Codes, F8E4M3, F16, F32, Floats, ForBlocks, Raw, Unpacked};
use crate::simd::{self, LANES, Lanes, Level, Simd, Work};
use crate::{Format, Weights};

/// Columns of an integer panel at most; it and a tile of activations share the first cache.
pub(crate) const INT_COLS: usize = 1024;

/// Columns of a float panel at most.
pub(crate) const FLOAT_COLS: usize = 256;

/// Columns that are put side by side at a time.
const STEP: usize = 256;

/// Words of a row that hold `STEP` columns of any format, at most, and some more.
const WORDS: usize = STEP + 2;

/// Room to make a panel in.
#[repr(C, align(64))]
pub(crate) struct Panel {
    pub codes: [[u32; LANES]; INT_COLS / 4],
    pub scale: [[f32; LANES]; INT_COLS / 16],
    pub min: [[f32; LANES]; INT_COLS / 16],
    pub floats: [[f32; LANES]; FLOAT_COLS],
    words: [[u32; LANES]; WORDS],
}

// SAFETY: arrays of numbers, each a multiple of 64 bytes long, so that there is no padding.
unsafe impl bytemuck::Zeroable for Panel {}

/// What a panel is made of: some columns of up to sixteen rows.
#[derive(Clone, Copy)]
pub(crate) struct Slab<'a> {
    pub format: Format,
    /// The bytes of each row; lanes without a row repeat the last one.
    lanes: [&'a [u8]; LANES],
    /// The first row of the matrix, and how many there are.
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
        let mut lanes = [bytes; LANES];
        for (lane, of) in lanes.iter_mut().enumerate() {
            *of = &bytes[lane.min(rows - 1) * row_bytes..][..row_bytes];
        }
        (0..cols).step_by(most).map(move |first| Self { format, lanes, row, rows, first, cols: most.min(cols - first) })
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
            Format::F32 => simd::run(level, Read { panel: self, slab, format: F32 }),
            Format::F16 => simd::run(level, Read { panel: self, slab, format: F16 }),
            Format::BF16 => simd::run(level, Read { panel: self, slab, format: BF16 }),
            Format::F8E4M3 { block } => simd::run(level, Read { panel: self, slab, format: F8E4M3(block.into()) }),
            _ => {
                self.unpack(level, slab);
                let codes = slab.format.codes().expect("the others are integers");
                simd::run(level, Widen { panel: self, codes, cols: slab.cols });
            }
        }
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
        simd::run(self.level, UnpackAs { panel: self.panel, slab: self.slab, format: PhantomData::<F> });
    }
}

struct UnpackAs<'a, F> {
    panel: &'a mut Panel,
    slab: &'a Slab<'a>,
    format: PhantomData<F>,
}

impl<F: Blocks> Work for UnpackAs<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { panel, slab, .. } = self;
        for start in (0..slab.cols).step_by(STEP) {
            let blocks = STEP.min(slab.cols - start) / F::BLOCK;
            let words = (blocks * F::BYTES).div_ceil(4);
            S::columns(&slab.lanes, (slab.first + start) / F::BLOCK * F::BYTES, &mut panel.words[..words]);
            for block in 0..blocks {
                let column = start + block * F::BLOCK;
                let (word, group) = (column / 4, column / F::GROUP);
                let raw = Raw { words: &panel.words, at: block * F::BYTES, aligned: F::BYTES.is_multiple_of(4) };
                let mut out = Unpacked {
                    codes: &mut panel.codes[word..word + F::BLOCK / 4],
                    scale: &mut panel.scale[group..group + F::BLOCK / F::GROUP],
                    min: &mut panel.min[group..group + F::BLOCK / F::GROUP],
                };
                F::unpack::<S::Lanes>(raw, &mut out);
            }
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
        let offset = S::Lanes::splat(offset.into());
        for (word, floats) in panel.floats[..cols].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let codes = S::Lanes::load(&panel.codes[word]);
            let scale = S::Lanes::load(bytemuck::cast_ref(&panel.scale[word * 4 / group]));
            let min = S::Lanes::load(bytemuck::cast_ref(&panel.min[word * 4 / group]));
            for (byte, floats) in floats.iter_mut().enumerate() {
                let code = codes.shr(byte as u32 * 8).and(S::Lanes::splat(255)).sub(offset);
                let value = code.float().mul_float(scale);
                let value = if minimum { value.add_float(min) } else { value };
                value.store(bytemuck::cast_mut(floats));
            }
        }
    }
}

/// Small floats to floats.
struct Read<'a, F> {
    panel: &'a mut Panel,
    slab: &'a Slab<'a>,
    format: F,
}

impl<F: Floats> Work for Read<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { panel, slab, format } = self;
        format.read::<S>(&slab.lanes, slab.first, &mut panel.words, &mut panel.floats[..slab.cols]);
    }
}
