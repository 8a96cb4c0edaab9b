//! How weights lie in memory for the kernels: in panels of sixteen rows, which lie side by side unit by unit. Kernels read
//! a panel from its first byte to its last, and a load is a column of sixteen outputs.

use crate::cells::Cells;
use crate::simd::LANES;
use crate::{Cpu, Format};

/// Matrices of `rows` rows of `cols` elements as they are multiplied with: see [`pack`]. Rows are outputs.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    /// One matrix or several of them, packed.
    pub bytes: &'a [u8],
}

impl<'a> Weights<'a> {
    /// Outputs of all matrices side by side.
    ///
    /// # Panics
    /// If the bytes are not whole matrices.
    pub fn outputs(&self) -> usize {
        self.rows * self.matrices()
    }

    /// Panels of a matrix.
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    fn panel_bytes(&self) -> usize {
        row_bytes(self.format, self.cols) * LANES
    }

    /// How many matrices there are.
    ///
    /// # Panics
    /// If the bytes are not whole ones.
    pub(crate) fn matrices(&self) -> usize {
        let matrix = matrix_bytes(self.format, self.rows, self.cols);
        let whole = self.bytes.len().checked_rem(matrix).unwrap_or(self.bytes.len()) == 0;
        assert!(whole, "the bytes are no matrices of {}x{} in {}", self.rows, self.cols, self.format);
        self.bytes.len().checked_div(matrix).unwrap_or(0)
    }

    /// A panel, counted through all matrices.
    pub(crate) fn panel(&self, panel: usize) -> &'a [u8] {
        let (matrix, panel) = (panel / self.panels(), panel % self.panels());
        let start = matrix * matrix_bytes(self.format, self.rows, self.cols) + panel * self.panel_bytes();
        &self.bytes[start..start + self.panel_bytes()]
    }
}

/// # Panics
/// If the format has no rows of `cols` elements.
fn row_bytes(format: Format, cols: usize) -> usize {
    format.row_bytes(cols).unwrap_or_else(|| panic!("{format} has no rows of {cols} elements"))
}

/// Bytes of a packed matrix: whole panels.
fn matrix_bytes(format: Format, rows: usize, cols: usize) -> usize {
    rows.next_multiple_of(LANES) * row_bytes(format, cols)
}

/// Packs matrices of `rows` rows of `cols` elements, `bytes`, as a file has them: row after row. A row is blocks, a
/// block is units of one, two or four bytes, and a packed panel is the units of the first block, each with those of
/// sixteen rows side by side, then those of the next. Rows that a last panel lacks are zeros.
///
/// # Panics
/// If the format has no rows of `cols` elements, or `bytes` are not whole matrices.
pub fn pack(format: Format, rows: usize, cols: usize, bytes: &[u8]) -> Vec<u8> {
    let row = row_bytes(format, cols);
    if rows * row == 0 {
        return Vec::new();
    }
    assert!(bytes.len().is_multiple_of(rows * row), "pack: the bytes are not matrices of {rows}x{cols} in {format}");
    let (matrices, size, panels) = (bytes.len() / (rows * row), matrix_bytes(format, rows, cols), rows.div_ceil(LANES));
    let mut out = vec![0; matrices * size];
    let cells = Cells::new(&mut out);
    Cpu::with(|cpu| {
        cpu.pool.run(matrices * panels, |panel| {
            let (matrix, panel) = (panel / panels, panel % panels);
            let first = matrix * rows + panel * LANES;
            let some = LANES.min(rows - panel * LANES);
            let start = matrix * size + panel * LANES * row;
            // SAFETY: each panel is packed once.
            let out = unsafe { cells.piece(start..start + LANES * row) };
            pack_panel(format, &bytes[first * row..(first + some) * row], row, out);
        });
    });
    out
}

/// Packs up to sixteen rows of `row` bytes; lanes without one stay as they are.
pub(crate) fn pack_panel(format: Format, rows: &[u8], row: usize, out: &mut [u8]) {
    let (head, unit) = format.units();
    let block = format.block_bytes();
    let tail = (block - head) % unit;
    for (lane, row) in rows.chunks_exact(row).enumerate() {
        for (block, out) in row.chunks_exact(block).zip(out.chunks_exact_mut(block * LANES)) {
            let (first, rest) = block.split_at(head);
            let (units, last) = rest.split_at(rest.len() - tail);
            let (first_out, rest_out) = out.split_at_mut(head * LANES);
            let (units_out, last_out) = rest_out.split_at_mut(units.len() * LANES);
            spread(first, head, lane, first_out);
            spread(units, unit, lane, units_out);
            spread(last, tail, lane, last_out);
        }
    }
}

/// Puts a row's units of `size` bytes to their places.
fn spread(units: &[u8], size: usize, lane: usize, out: &mut [u8]) {
    fn of<const N: usize>(units: &[u8], lane: usize, out: &mut [u8]) {
        let places = out.as_chunks_mut::<N>().0.iter_mut().skip(lane).step_by(LANES);
        units.as_chunks().0.iter().zip(places).for_each(|(unit, place)| *place = *unit);
    }
    match size {
        0 => (),
        1 => of::<1>(units, lane, out),
        2 => of::<2>(units, lane, out),
        _ => of::<4>(units, lane, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::tests::{FORMATS, Random};

    /// Where byte `at` of a block is, of one row, as the documentation says.
    fn place(format: Format, at: usize, lane: usize) -> usize {
        let (head, unit) = format.units();
        let (start, size) = if at < head {
            (0, head)
        } else {
            let start = head + (at - head) / unit * unit;
            (start, unit.min(format.block_bytes() - start))
        };
        start * LANES + lane * size + at - start
    }

    #[test]
    fn every_byte_has_its_place() {
        let mut random = Random::new(31);
        for format in FORMATS {
            for (matrices, rows, blocks) in [(1, 1, 1), (3, 16, 2), (2, 37, 3)] {
                let (block, cols) = (format.block_bytes(), blocks * format.block());
                let bytes = random.weights(format, matrices * rows, cols);
                let packed = pack(format, rows, cols, &bytes);
                let w = Weights { format, rows, cols, bytes: &packed };
                assert_eq!(w.matrices(), matrices);
                let mut seen = 0;
                for (i, byte) in bytes.iter().enumerate() {
                    let (row, at) = (i / (blocks * block), i % (blocks * block));
                    let (matrix, row) = (row / rows, row % rows);
                    let panel = w.panel(matrix * w.panels() + row / LANES);
                    assert_eq!(panel[at / block * block * LANES + place(format, at % block, row % LANES)], *byte);
                    seen += usize::from(*byte != 0);
                }
                assert_eq!(w.bytes.iter().filter(|byte| **byte != 0).count(), seen, "{format}: the rest is zero");
            }
        }
    }

    #[test]
    fn nothing_is_packed_to_nothing() {
        assert!(pack(Format::Q4_0, 0, 32, &[]).is_empty());
        assert!(pack(Format::F32, 3, 4, &[]).is_empty());
    }
}
