//! Panels: sixteen rows of weights side by side, so that a lane is an output and every output has its own sum.

use std::marker::PhantomData;

use crate::blocks::{BF16, Blocks, Codes, F8E4M3, F16, F32, Floats, ForBlocks, Groups, Raw, Source};
use crate::simd::{self, Ahead, LANES, Lanes, Level, Rows, Simd, Work};
use crate::{Format, Weights};

/// Columns of an integer panel at most; it and a tile of activations share the first cache.
pub(crate) const INT_COLS: usize = 1024;

/// Columns of a float panel at most.
pub(crate) const FLOAT_COLS: usize = 256;

/// Columns of integers that are put side by side at a time.
const STEP: usize = 512;

/// Words of a row that hold as many columns of any format, at most, and some more.
const WORDS: usize = FLOAT_COLS + 2;

/// Room to make a panel in.
#[repr(C, align(64))]
pub(crate) struct Panel {
    pub codes: [[u32; LANES]; INT_COLS / 4],
    pub scale: [[f32; LANES]; INT_COLS / 16],
    pub min: [[f32; LANES]; INT_COLS / 16],
    /// Some more, so that columns can be written four at a time.
    pub floats: [[f32; LANES]; FLOAT_COLS + 4],
    words: [[u32; LANES]; WORDS],
}

// SAFETY: arrays of numbers, each a multiple of 64 bytes long, so that there is no padding.
unsafe impl bytemuck::Zeroable for Panel {}

/// Up to sixteen rows of a matrix.
pub(crate) struct PanelRows<'a> {
    format: Format,
    cols: usize,
    /// Lanes without a row repeat the last one.
    bytes: Rows<'a>,
    /// The next panel, if it is there.
    next: &'a [u8],
    /// The first row of the matrix, and how many there are.
    pub row: usize,
    pub rows: usize,
}

impl<'a> PanelRows<'a> {
    /// The rows of panel `panel` of matrix `matrix` of a stack.
    pub fn of(w: &Weights<'a>, matrix: usize, panel: usize) -> Self {
        let (row, row_bytes) = (panel * LANES, w.row_bytes());
        let rows = LANES.min(w.rows - row);
        let (bytes, next) = w.bytes[(matrix * w.rows + row) * row_bytes..].split_at(rows * row_bytes);
        let next = &next[..next.len().min(LANES * row_bytes)];
        let mut bytes = Rows { lanes: [bytes; LANES] };
        for (lane, of) in bytes.lanes.iter_mut().enumerate() {
            *of = &of[lane.min(rows - 1) * row_bytes..][..row_bytes];
        }
        Self { format: w.format, cols: w.cols, bytes, next, row, rows }
    }
}

impl<'a> PanelRows<'a> {
    pub fn format(&self) -> Format {
        self.format
    }

    /// All bytes, and the next panel.
    pub fn all(&self) -> (&Rows<'a>, Ahead<'a>) {
        (&self.bytes, Ahead(self.next))
    }

    /// The part of the next panel to call to the cache while some columns are computed with.
    fn ahead(&self, columns: Columns) -> Ahead<'a> {
        let part = |column: usize| self.next.len() / 64 * column / self.cols * 64;
        let end = columns.first + columns.count;
        Ahead(&self.next[part(columns.first)..if end == self.cols { self.next.len() } else { part(end) }])
    }
}

/// Columns of a panel: the first one, and how many.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    pub first: usize,
    pub count: usize,
}

impl Columns {
    /// `all` columns, `most` at a time.
    pub fn of(all: usize, most: usize) -> impl Iterator<Item = Self> {
        (0..all).step_by(most).map(move |first| Self { first, count: most.min(all - first) })
    }
}

impl Panel {
    pub fn new() -> Box<Self> {
        bytemuck::zeroed_box()
    }

    /// Makes a panel of codes, of rows in a format of integers. Returns what is still to be called to the cache.
    pub fn unpack<'a>(&mut self, level: Level, rows: &PanelRows<'a>, columns: Columns) -> Ahead<'a> {
        let mut ahead = rows.ahead(columns);
        let made = rows.format.with_blocks(Unpack { panel: self, level, rows, columns, ahead: &mut ahead });
        made.unwrap_or_else(|| unreachable!("{} has no codes", rows.format));
        ahead
    }

    /// Makes a panel of floats, and returns the same.
    pub fn widen<'a>(&mut self, level: Level, rows: &PanelRows<'a>, columns: Columns) -> Ahead<'a> {
        let mut ahead = rows.ahead(columns);
        match rows.format {
            Format::F32 => simd::run(level, Read { panel: self, rows, columns, ahead: &mut ahead, format: F32 }),
            Format::F16 => simd::run(level, Read { panel: self, rows, columns, ahead: &mut ahead, format: F16 }),
            Format::BF16 => simd::run(level, Read { panel: self, rows, columns, ahead: &mut ahead, format: BF16 }),
            Format::F8E4M3 { block } => {
                simd::run(level, Read { panel: self, rows, columns, ahead: &mut ahead, format: F8E4M3(block.into()) });
            }
            _ => {
                ahead = self.unpack(level, rows, columns);
                let codes = rows.format.codes().expect("the others are integers");
                simd::run(level, Widen { panel: self, codes, cols: columns.count });
            }
        }
        ahead
    }
}

struct Unpack<'a, 'w> {
    panel: &'a mut Panel,
    level: Level,
    rows: &'a PanelRows<'w>,
    columns: Columns,
    ahead: &'a mut Ahead<'w>,
}

impl ForBlocks for Unpack<'_, '_> {
    type Out = ();

    fn run<F: Blocks>(self) {
        let Self { panel, level, rows, columns, ahead } = self;
        simd::run(level, UnpackAs { panel, rows: &rows.bytes, columns, ahead, format: PhantomData::<F> });
    }
}

struct UnpackAs<'a, 'w, F> {
    panel: &'a mut Panel,
    rows: &'a Rows<'w>,
    columns: Columns,
    ahead: &'a mut Ahead<'w>,
    format: PhantomData<F>,
}

impl<F: Blocks> Work for UnpackAs<'_, '_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { panel, rows, columns, ahead, .. } = self;
        let mut groups = Groups::<S::Lanes>::new();
        for start in (0..columns.count).step_by(STEP) {
            let blocks = STEP.min(columns.count - start) / F::BLOCK;
            let words = (blocks * F::BYTES).div_ceil(4);
            S::columns(rows, (columns.first + start) / F::BLOCK * F::BYTES, &mut panel.words[..words], ahead);
            for block in 0..blocks {
                let column = start + block * F::BLOCK;
                let raw = Raw { words: &panel.words, at: block * F::BYTES, aligned: F::BYTES.is_multiple_of(4) };
                ahead.call(F::BLOCK / 32);
                F::groups(raw, &mut groups);
                for i in 0..F::BLOCK / F::GROUP {
                    groups.scale[i].store(bytemuck::cast_mut(&mut panel.scale[column / F::GROUP + i]));
                    if F::MINIMUM {
                        groups.min[i].store(bytemuck::cast_mut(&mut panel.min[column / F::GROUP + i]));
                    }
                }
                for run in 0..F::BLOCK / 32 {
                    let codes = &mut panel.codes[column / 4 + run * 8..column / 4 + run * 8 + 8];
                    for (word, codes) in codes.iter_mut().enumerate() {
                        F::codes::<S::Lanes>(raw, run, word).store(codes);
                    }
                }
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
struct Read<'a, 'w, F> {
    panel: &'a mut Panel,
    rows: &'a PanelRows<'w>,
    columns: Columns,
    ahead: &'a mut Ahead<'w>,
    format: F,
}

impl<F: Floats> Work for Read<'_, '_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { panel, rows, columns, ahead, format } = self;
        let source = Source { rows: &rows.bytes, first: columns.first, count: columns.count, ahead };
        format.read::<S>(source, &mut panel.words, &mut panel.floats);
    }
}
