//! Weights as the numbers they stand for.

#[cfg(test)]
mod tests;

use std::cell::RefCell;

use crate::cells::Cells;
use crate::pack::pack_panel;
use crate::panel::{Columns, FLOAT_COLS, Packed, Panel};
use crate::simd::{LANES, Level};
use crate::{Cpu, Format, Weights};

thread_local! {
    static PANEL: RefCell<Box<Panel>> = RefCell::new(Panel::new());
}

/// Writes the values of whole rows of `cols` elements as a file has them, one row or many. A value is scale times
/// integer, plus the minimum where the format has one, each rounded.
///
/// # Panics
/// If the format has no such rows, or `bytes` and `out` do not hold the same number of them.
pub fn dequantize(format: Format, cols: usize, bytes: &[u8], out: &mut [f32]) {
    let rows = out.len().checked_div(cols).unwrap_or(0);
    let row = format.row_bytes(cols).unwrap_or_else(|| panic!("{format} has no rows of {cols} elements"));
    assert_eq!(out.len(), rows * cols, "dequantize: the output is not rows of {cols} elements");
    assert_eq!(bytes.len(), rows * row, "dequantize: bytes for {rows} rows of {cols} in {format}");
    let out = Cells::new(out);
    Cpu::with(|cpu| {
        let panels = rows.div_ceil(LANES);
        let per_part = if rows * cols < 1 << 15 { panels } else { 1 };
        cpu.pool.run(panels.div_ceil(per_part.max(1)), |part| {
            let mut packed = vec![0; LANES * row];
            for panel in part * per_part..panels.min((part + 1) * per_part) {
                let rows = panel * LANES..rows.min((panel + 1) * LANES);
                pack_panel(format, &bytes[rows.start * row..rows.end * row], row, &mut packed);
                // SAFETY: each panel is in one part.
                let out = unsafe { out.piece(rows.start * cols..rows.end * cols) };
                write(cpu.level(), Source { format, panel: &packed, first: 0 }, cols, out);
            }
        });
    });
}

/// Writes the rows of a table that `ids` name: `[ids.len(), cols]`.
///
/// # Panics
/// If lengths do not fit, or an id is not one of a row.
pub fn embed(table: &Weights, ids: &[i32], out: &mut [f32]) {
    let Weights { format, rows, cols, .. } = *table;
    assert!(table.matrices() == 1 || rows == 0, "embed: bytes of {rows}x{cols} in {format}");
    assert_eq!(out.len(), ids.len() * cols, "embed: the output for {} ids", ids.len());
    let wrong = ids.iter().find(|id| usize::try_from(**id).map_or(true, |id| id >= rows));
    assert!(wrong.is_none(), "embed: the id {wrong:?} is no row of {rows}");
    let out = Cells::new(out);
    Cpu::with(|cpu| {
        // A few rows are done before another thread has heard of it.
        let per_part = if ids.len() * cols < 1 << 13 { ids.len().max(1) } else { 4 };
        cpu.pool.run(ids.len().div_ceil(per_part), |part| {
            let end = ids.len().min((part + 1) * per_part);
            // SAFETY: each row of the output is in one part.
            let out = unsafe { out.piece(part * per_part * cols..end * cols) };
            for (id, out) in ids[part * per_part..end].iter().zip(out.chunks_exact_mut(cols)) {
                let (panel, first) = (*id as usize / LANES, *id as usize % LANES);
                write(cpu.level(), Source { format, panel: table.panel(panel), first }, cols, out);
            }
        });
    });
}

/// Rows of a packed panel.
#[derive(Clone, Copy)]
struct Source<'a> {
    format: Format,
    panel: &'a [u8],
    /// The first one.
    first: usize,
}

/// Writes as many rows of `cols` elements as `out` has.
fn write(level: Level, from: Source, cols: usize, out: &mut [f32]) {
    PANEL.with_borrow_mut(|room| {
        for columns in Columns::of(cols, FLOAT_COLS) {
            room.widen(level, &Packed { format: from.format, bytes: from.panel, columns });
            for (row, out) in out.chunks_exact_mut(cols).enumerate() {
                let values = room.floats.iter().map(|floats| floats[from.first + row]);
                let out = &mut out[columns.first..columns.first + columns.count];
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
            }
        }
    });
}
