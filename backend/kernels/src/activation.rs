//! Activations as kernels read them: rows of tiles, interleaved, as floats or as bytes with a scale per 32.

use crate::Cpu;
use crate::blocks::Codes;
use crate::cells::Cells;
use crate::simd::{self, BLOCK, Simd, Work};

/// Rows that are multiplied together. They belong to one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Which matrix of a stack.
    pub matrix: usize,
    /// The first row, in the order of the tiles.
    pub first: usize,
    pub rows: usize,
}

/// Rows of activations, and how they are put together.
pub(crate) struct Rows<'a> {
    /// `[n, cols]`
    pub x: &'a [f32],
    pub cols: usize,
    /// Which row of `x` stands where; none where they stay as they are.
    pub order: Option<&'a [u32]>,
    pub tiles: &'a [Tile],
}

impl Rows<'_> {
    /// Which row of `x` is the `place`th of the tiles.
    #[inline(always)]
    pub fn row(&self, place: usize) -> usize {
        self.order.map_or(place, |order| order[place] as usize)
    }

    pub fn len(&self) -> usize {
        self.tiles.last().map_or(0, |tile| tile.first + tile.rows)
    }

    #[inline(always)]
    fn elements(&self, place: usize) -> &[f32] {
        &self.x[self.row(place) * self.cols..][..self.cols]
    }
}

/// Cuts rows `first..first + count` of one matrix into tiles of nearly the same size, `largest` at most.
pub(crate) fn cut(matrix: usize, first: usize, count: usize, largest: usize, tiles: &mut Vec<Tile>) {
    let pieces = count.div_ceil(largest);
    tiles.extend((0..pieces).map(|i| {
        let (start, end) = (i * count / pieces, (i + 1) * count / pieces);
        Tile { matrix, first: first + start, rows: end - start }
    }));
}

/// Quantised tiles. That of rows `first..first + rows` begins at `first` times what a row has of each array, and has
/// `rows` values side by side.
#[derive(Default)]
pub(crate) struct IntTiles {
    /// `[cols / 4]` per row.
    pub bytes: Vec<[i8; 4]>,
    /// `[cols / 32]` per row.
    pub scale: Vec<f32>,
    /// `-offset` times the sum of the bytes of a group: `[cols / group]` per row, as `sum`.
    pub offset: Vec<i32>,
    /// The sum of the activations of a group, as quantised.
    pub sum: Vec<f32>,
}

impl IntTiles {
    /// Quantises `rows`, whose columns are whole blocks of 32.
    pub fn fill(&mut self, cpu: &Cpu, rows: &Rows, codes: Codes) {
        let (n, cols) = (rows.len(), rows.cols);
        self.bytes.resize(n * cols / 4, [0; 4]);
        self.scale.resize(n * cols / BLOCK, 0.0);
        self.offset.resize(n * cols / codes.group, 0);
        self.sum.resize(n * cols / codes.group, 0.0);
        let out = IntCells {
            bytes: Cells::new(&mut self.bytes),
            scale: Cells::new(&mut self.scale),
            offset: Cells::new(&mut self.offset),
            sum: Cells::new(&mut self.sum),
        };
        in_tiles(cpu, rows, |tiles| simd::run(cpu.level(), Quantise { rows, tiles, codes, out: &out }));
    }
}

/// Calls `task` with runs of tiles, on several threads if it is worth it.
fn in_tiles(cpu: &Cpu, rows: &Rows, task: impl Fn(&[Tile]) + Sync) {
    /// Elements of a part.
    const PART: usize = 1 << 14;
    let per_part = (PART * rows.tiles.len()).checked_div(rows.len() * rows.cols).unwrap_or(1).max(1);
    cpu.pool.run(rows.tiles.len().div_ceil(per_part), |part| {
        let end = rows.tiles.len().min((part + 1) * per_part);
        task(&rows.tiles[part * per_part..end]);
    });
}

struct IntCells<'a> {
    bytes: Cells<'a, [i8; 4]>,
    scale: Cells<'a, f32>,
    offset: Cells<'a, i32>,
    sum: Cells<'a, f32>,
}

struct Quantise<'a> {
    rows: &'a Rows<'a>,
    tiles: &'a [Tile],
    codes: Codes,
    out: &'a IntCells<'a>,
}

impl Work for Quantise<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (cols, group, offset) = (self.rows.cols, self.codes.group, -i32::from(self.codes.offset));
        for tile in self.tiles {
            let (first, n) = (tile.first, tile.rows);
            let piece = |per_row: usize| first * per_row..(first + n) * per_row;
            // SAFETY: tiles do not overlap, and a tile is in one part.
            let (bytes, scales, offsets, sums) = unsafe {
                (
                    self.out.bytes.piece(piece(cols / 4)),
                    self.out.scale.piece(piece(cols / BLOCK)),
                    self.out.offset.piece(piece(cols / group)),
                    self.out.sum.piece(piece(cols / group)),
                )
            };
            for row in 0..n {
                let x = self.rows.elements(first + row).as_chunks::<BLOCK>().0;
                for (block, x) in x.iter().enumerate() {
                    let q = S::quantise(x);
                    scales[block * n + row] = q.scale;
                    if n == 1 {
                        bytes[block * 8..block * 8 + 8].copy_from_slice(&q.bytes);
                    } else {
                        let mut at = block * 8 * n + row;
                        for q in q.bytes {
                            bytes[at] = q;
                            at += n;
                        }
                    }
                    if group == BLOCK {
                        let sum = q.sums[0] + q.sums[1];
                        offsets[block * n + row] = offset * sum;
                        sums[block * n + row] = q.scale * sum as f32;
                    } else {
                        for (half, sum) in q.sums.into_iter().enumerate() {
                            offsets[(block * 2 + half) * n + row] = offset * sum;
                            sums[(block * 2 + half) * n + row] = q.scale * sum as f32;
                        }
                    }
                }
            }
        }
    }
}

/// Interleaved floats: `[cols]` per row, as [`IntTiles`] has its arrays.
#[derive(Default)]
pub(crate) struct FloatTiles {
    x: Vec<f32>,
}

impl FloatTiles {
    /// Puts `rows` together. Rows that need no moving are returned as they are.
    pub fn fill<'a>(&'a mut self, cpu: &Cpu, rows: &'a Rows) -> &'a [f32] {
        if rows.order.is_none() && rows.tiles.iter().all(|tile| tile.rows == 1) {
            return rows.x;
        }
        self.x.resize(rows.len() * rows.cols, 0.0);
        let out = Cells::new(&mut self.x);
        in_tiles(cpu, rows, |tiles| {
            for tile in tiles {
                // SAFETY: tiles do not overlap, and a tile is in one part.
                let out = unsafe { out.piece(tile.first * rows.cols..(tile.first + tile.rows) * rows.cols) };
                for row in 0..tile.rows {
                    let places = out[row..].iter_mut().step_by(tile.rows);
                    places.zip(rows.elements(tile.first + row)).for_each(|(place, x)| *place = *x);
                }
            }
        });
        &self.x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_their_rows() {
        for count in 0..40 {
            let mut tiles = Vec::new();
            cut(3, 5, count, 8, &mut tiles);
            let mut next = 5;
            for tile in tiles {
                assert!((tile.matrix, tile.first) == (3, next) && (1..=8).contains(&tile.rows));
                next += tile.rows;
            }
            assert_eq!(next, 5 + count);
        }
    }
}
