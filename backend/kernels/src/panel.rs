//! Panels: sixteen rows of weights as codes or floats, so that a lane is an output and every output has its own sum.

use std::marker::PhantomData;

use crate::Format;
use crate::blocks::{BF16, Block, Blocks, Codes, F8E4M3, F16, F32, Floats, ForBlocks, Groups};
use crate::simd::{self, LANES, Lanes, Level, Simd, Work};

/// Columns of an integer panel at most; it and a tile of activations share the first cache.
pub(crate) const INT_COLS: usize = 1024;

/// Columns of a float panel at most.
pub(crate) const FLOAT_COLS: usize = 256;

/// Room to make a panel in.
#[repr(C, align(64))]
pub(crate) struct Panel {
    pub codes: [[u32; LANES]; INT_COLS / 4],
    pub scale: [[f32; LANES]; INT_COLS / 16],
    pub min: [[f32; LANES]; INT_COLS / 16],
    pub floats: [[f32; LANES]; FLOAT_COLS],
}

// SAFETY: arrays of numbers, each a multiple of 64 bytes long, so that there is no padding.
unsafe impl bytemuck::Zeroable for Panel {}

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

/// Columns of packed rows.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub format: Format,
    /// A packed panel.
    pub bytes: &'a [u8],
    pub columns: Columns,
}

impl<'a> Packed<'a> {
    /// Their blocks.
    #[inline(always)]
    fn blocks<F: Blocks>(&self) -> impl Iterator<Item = Block<'a>> {
        let Columns { first, count } = self.columns;
        let blocks = self.bytes[first / F::BLOCK * F::BYTES * LANES..].chunks_exact(F::BYTES * LANES);
        blocks.take(count / F::BLOCK).map(Block)
    }
}

impl Panel {
    pub fn new() -> Box<Self> {
        bytemuck::zeroed_box()
    }

    /// Makes a panel of codes, of rows in a format of integers.
    pub fn unpack(&mut self, level: Level, rows: &Packed) {
        let made = rows.format.with_blocks(Unpack { panel: self, level, rows });
        made.unwrap_or_else(|| unreachable!("{} has no codes", rows.format));
    }

    /// Makes a panel of floats.
    pub fn widen(&mut self, level: Level, rows: &Packed) {
        let Columns { first, count } = rows.columns;
        let floats = &mut self.floats[..count];
        match rows.format {
            Format::F32 => simd::run(level, Read { floats, panel: rows.bytes, first, format: F32 }),
            Format::F16 => simd::run(level, Read { floats, panel: rows.bytes, first, format: F16 }),
            Format::BF16 => simd::run(level, Read { floats, panel: rows.bytes, first, format: BF16 }),
            Format::F8E4M3 { block } => {
                simd::run(level, Read { floats, panel: rows.bytes, first, format: F8E4M3(block.into()) });
            }
            _ => {
                self.unpack(level, rows);
                let codes = rows.format.codes().expect("the others are integers");
                simd::run(level, Widen { panel: self, codes, cols: count });
            }
        }
    }
}

struct Unpack<'a> {
    panel: &'a mut Panel,
    level: Level,
    rows: &'a Packed<'a>,
}

impl ForBlocks for Unpack<'_> {
    type Out = ();

    fn run<F: Blocks>(self) {
        let Self { panel, level, rows } = self;
        simd::run(level, UnpackAs { panel, rows, format: PhantomData::<F> });
    }
}

struct UnpackAs<'a, F> {
    panel: &'a mut Panel,
    rows: &'a Packed<'a>,
    format: PhantomData<F>,
}

impl<F: Blocks> Work for UnpackAs<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { panel, rows, .. } = self;
        let mut groups = Groups::<S::Lanes>::new();
        let per_block = F::BLOCK / F::GROUP;
        let scales = panel.scale.chunks_exact_mut(per_block).zip(panel.min.chunks_exact_mut(per_block));
        let codes = panel.codes.chunks_exact_mut(F::BLOCK / 4);
        for ((block, (scale, min)), codes) in rows.blocks::<F>().zip(scales).zip(codes) {
            F::groups(block, &mut groups);
            for (i, (scale, min)) in scale.iter_mut().zip(min).enumerate() {
                groups.scale[i].store(bytemuck::cast_mut(scale));
                if F::MINIMUM {
                    groups.min[i].store(bytemuck::cast_mut(min));
                }
            }
            for (run, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                for (word, codes) in codes.iter_mut().enumerate() {
                    F::codes::<S::Lanes>(block, run, word).store(codes);
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
struct Read<'a, F> {
    floats: &'a mut [[f32; LANES]],
    panel: &'a [u8],
    first: usize,
    format: F,
}

impl<F: Floats> Work for Read<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        self.format.read::<S::Lanes>(self.panel, self.first, self.floats);
    }
}
