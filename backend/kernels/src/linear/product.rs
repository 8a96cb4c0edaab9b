//! A part of a product: panels are made once, and multiplied with tile after tile.

use std::cell::RefCell;

use super::parts::Part;
use crate::Weights;
use crate::activation::{BLOCK, IntTiles, Rows, Tile};
use crate::blocks::Codes;
use crate::cells::Cells;
use crate::panel::{FLOAT_COLS, INT_COLS, Panel, Slab};
use crate::simd::{self, IntTile, LANES, Level, MOST_ROWS};

#[derive(Clone, Copy)]
pub(super) enum Activations<'a> {
    Ints(&'a IntTiles, Codes),
    Floats(&'a [f32]),
}

/// Everything a part needs to know.
pub(super) struct Product<'a> {
    pub level: Level,
    pub w: &'a Weights<'a>,
    pub bias: Option<&'a [f32]>,
    pub rows: &'a Rows<'a>,
    pub activations: Activations<'a>,
    pub y: Cells<'a, f32>,
}

thread_local! {
    static PANEL: RefCell<Box<Panel>> = RefCell::new(Panel::new());
}

impl Product<'_> {
    pub fn compute(&self, part: &Part) {
        let tiles = &self.rows.tiles[part.tiles.clone()];
        PANEL.with_borrow_mut(|room| {
            for panel in part.panels.clone() {
                match self.activations {
                    Activations::Ints(x, codes) => {
                        for slab in Slab::of(self.w, tiles[0].matrix, panel, INT_COLS) {
                            room.unpack(self.level, &slab);
                            tiles.iter().for_each(|tile| self.ints(room, &slab, tile, x, codes));
                        }
                    }
                    Activations::Floats(x) => {
                        for slab in Slab::of(self.w, tiles[0].matrix, panel, FLOAT_COLS) {
                            room.widen(self.level, &slab);
                            tiles.iter().for_each(|tile| self.floats(room, &slab, tile, x));
                        }
                    }
                }
            }
        });
    }

    fn ints(&self, panel: &Panel, slab: &Slab, tile: &Tile, x: &IntTiles, codes: Codes) {
        let groups = slab.cols / codes.group;
        // A tile's part of an array with an element per `size` columns.
        let piece = |size: usize| {
            let begin = (tile.first * self.w.cols + slab.first * tile.rows) / size;
            begin..begin + slab.cols * tile.rows / size
        };
        let operands = IntTile {
            group: codes.group,
            largest: codes.largest,
            codes: &panel.codes[..slab.cols / 4],
            scale: &panel.scale[..groups],
            min: codes.minimum.then_some(&panel.min[..groups]),
            x: &x.bytes[piece(4)],
            x_scale: &x.scale[piece(BLOCK)],
            x_offset: &x.offset[piece(codes.group)],
            x_sum: &x.sum[piece(codes.group)],
        };
        let mut room = [[0.0; LANES]; MOST_ROWS];
        let acc = &mut room[..tile.rows];
        self.begin(slab, tile, acc);
        simd::int_tile(self.level, &operands, acc);
        self.end(slab, tile, acc);
    }

    fn floats(&self, panel: &Panel, slab: &Slab, tile: &Tile, x: &[f32]) {
        let begin = tile.first * self.w.cols + slab.first * tile.rows;
        let mut room = [[0.0; LANES]; MOST_ROWS];
        let acc = &mut room[..tile.rows];
        self.begin(slab, tile, acc);
        simd::float_tile(self.level, &panel.floats[..slab.cols], &x[begin..begin + slab.cols * tile.rows], acc);
        self.end(slab, tile, acc);
    }

    /// The sums of the columns before those of `slab`.
    fn begin(&self, slab: &Slab, tile: &Tile, acc: &mut [[f32; LANES]]) {
        if slab.first > 0 {
            for (n, acc) in acc.iter_mut().enumerate() {
                acc[..slab.rows].copy_from_slice(self.outputs(slab, tile, n));
            }
        }
    }

    /// Keeps the sums, with the bias if they are complete.
    fn end(&self, slab: &Slab, tile: &Tile, acc: &[[f32; LANES]]) {
        let bias = self.bias.filter(|_| slab.first + slab.cols == self.w.cols);
        for (n, acc) in acc.iter().enumerate() {
            let y = self.outputs(slab, tile, n);
            y.copy_from_slice(&acc[..slab.rows]);
            if let Some(bias) = bias {
                y.iter_mut().zip(&bias[slab.row..]).for_each(|(y, bias)| *y += bias);
            }
        }
    }

    fn outputs(&self, slab: &Slab, tile: &Tile, n: usize) -> &mut [f32] {
        let start = self.rows.row(tile.first + n) * self.w.rows + slab.row;
        // SAFETY: a panel and a tile meet in one part, a row is in one tile, and the piece is used up before the part
        // asks for it again.
        unsafe { self.y.piece(start..start + slab.rows) }
    }
}
