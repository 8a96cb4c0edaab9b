//! Weights as the numbers they stand for.

use crate::blocks::{Blocks, ForBlocks, Groups, Plain};
use crate::floats::{BF16, F8E4M3, F16, F32, Floats};
use crate::{Cpu, Format, Weights};
use crate::cells::Cells;

/// Writes the values of whole rows of `cols` elements, one row or many.
///
/// # Panics
/// If the format has no such rows, or `bytes` and `out` do not hold the same number of them.
pub fn dequantize(format: Format, cols: usize, bytes: &[u8], out: &mut [f32]) {
    let rows = out.len().checked_div(cols).unwrap_or(0);
    let weights = Weights { format, rows, cols, bytes };
    assert_eq!(out.len(), rows * cols, "dequantize: the output is not rows of {cols} elements");
    assert_eq!(bytes.len(), rows * weights.row_bytes(), "dequantize: bytes for {rows} rows of {cols} in {format}");
    if rows > 0 {
        let bytes = bytes.chunks_exact(weights.row_bytes());
        bytes.zip(out.chunks_exact_mut(cols)).for_each(|(bytes, out)| row(format, bytes, out));
    }
}

/// Writes the rows of a table that `ids` name: `[ids.len(), cols]`.
///
/// # Panics
/// If lengths do not fit, or an id is not one of a row.
pub fn embed(table: &Weights, ids: &[i32], out: &mut [f32]) {
    let bytes = table.row_bytes();
    assert_eq!(table.bytes.len(), table.rows * bytes, "embed: bytes of {} rows in {}", table.rows, table.format);
    assert_eq!(out.len(), ids.len() * table.cols, "embed: the output for {} ids", ids.len());
    let wrong = ids.iter().find(|id| usize::try_from(**id).map_or(true, |id| id >= table.rows));
    assert!(wrong.is_none(), "embed: the id {wrong:?} is no row of {}", table.rows);
    let out = Cells::new(out);
    Cpu::with(|cpu| {
        // A few rows are done before another thread has heard of it.
        let per_part = if ids.len() * table.cols < 1 << 15 { ids.len().max(1) } else { 16 };
        cpu.pool.run(ids.len().div_ceil(per_part), |part| {
            for i in part * per_part..ids.len().min((part + 1) * per_part) {
                // SAFETY: each row of the output is in one part.
                let out = unsafe { out.piece(i * table.cols..(i + 1) * table.cols) };
                row(table.format, table.rows_at(ids[i] as usize, 1), out);
            }
        });
    });
}

/// One row.
fn row(format: Format, bytes: &[u8], out: &mut [f32]) {
    match format {
        Format::F32 => F32.read(bytes, 0, out),
        Format::F16 => F16.read(bytes, 0, out),
        Format::BF16 => BF16.read(bytes, 0, out),
        Format::F8E4M3 { block } => F8E4M3(block.into()).read(bytes, 0, out),
        _ => format.with_blocks(Integers { bytes, out }).expect("the others are integers"),
    }
}

struct Integers<'a> {
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl ForBlocks for Integers<'_> {
    type Out = ();

    fn run<F: Blocks>(self) {
        let (mut codes, mut groups) = ([0; 256], Groups::default());
        for (bytes, out) in self.bytes.chunks_exact(F::BYTES).zip(self.out.chunks_exact_mut(F::BLOCK)) {
            F::unpack::<Plain>(bytes, &mut codes[..F::BLOCK], &mut groups);
            for (i, out) in out.iter_mut().enumerate() {
                let value = f32::from(i16::from(codes[i]) - i16::from(F::OFFSET)) * groups.scale[i / F::GROUP];
                *out = if F::MINIMUM { value + groups.min[i / F::GROUP] } else { value };
            }
        }
    }
}
