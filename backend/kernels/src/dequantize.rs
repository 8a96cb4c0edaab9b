//! Weights as the numbers they stand for.

#[cfg(test)]
mod tests;

use std::cell::RefCell;

use crate::cells::Cells;
use crate::panel::{Columns, FLOAT_COLS, Panel, PanelRows};
use crate::simd::{LANES, Level};
use crate::{Cpu, Format, Weights};

thread_local! {
    static PANEL: RefCell<Box<Panel>> = RefCell::new(Panel::new());
}

/// Writes the values of whole rows of `cols` elements, one row or many. A value is scale times integer, plus the
/// minimum where the format has one, each rounded.
///
/// # Panics
/// If the format has no such rows, or `bytes` and `out` do not hold the same number of them.
pub fn dequantize(format: Format, cols: usize, bytes: &[u8], out: &mut [f32]) {
    let rows = out.len().checked_div(cols).unwrap_or(0);
    let w = Weights { format, rows, cols, bytes };
    assert_eq!(out.len(), rows * cols, "dequantize: the output is not rows of {cols} elements");
    assert_eq!(bytes.len(), rows * w.row_bytes(), "dequantize: bytes for {rows} rows of {cols} in {format}");
    let out = Cells::new(out);
    Cpu::with(|cpu| {
        let panels = rows.div_ceil(LANES);
        let per_part = if rows * cols < 1 << 15 { panels } else { 1 };
        cpu.pool.run(panels.div_ceil(per_part.max(1)), |part| {
            for panel in part * per_part..panels.min((part + 1) * per_part) {
                let end = rows.min((panel + 1) * LANES);
                // SAFETY: each panel is in one part.
                let out = unsafe { out.piece(panel * LANES * cols..end * cols) };
                write(cpu.level(), &w, panel, out);
            }
        });
    });
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
        let per_part = if ids.len() * table.cols < 1 << 13 { ids.len().max(1) } else { 4 };
        cpu.pool.run(ids.len().div_ceil(per_part), |part| {
            let end = ids.len().min((part + 1) * per_part);
            // SAFETY: each row of the output is in one part.
            let out = unsafe { out.piece(part * per_part * table.cols..end * table.cols) };
            for (id, out) in ids[part * per_part..end].iter().zip(out.chunks_exact_mut(table.cols)) {
                let row = &table.bytes[*id as usize * bytes..][..bytes];
                write(cpu.level(), &Weights { rows: 1, bytes: row, ..*table }, 0, out);
            }
        });
    });
}

/// Writes the rows of a panel.
fn write(level: Level, w: &Weights, panel: usize, out: &mut [f32]) {
    let rows = PanelRows::of(w, 0, panel);
    PANEL.with_borrow_mut(|room| {
        for columns in Columns::of(w.cols, FLOAT_COLS) {
            let _ = room.widen(level, &rows, columns);
            for (lane, out) in out.chunks_exact_mut(w.cols).enumerate() {
                let values = room.floats.iter().map(|floats| floats[lane]);
                let out = &mut out[columns.first..columns.first + columns.count];
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
            }
        }
    });
}
