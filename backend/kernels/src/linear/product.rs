//! A part of a product: panels are made once, and multiplied with tile after tile.

use std::cell::RefCell;
use std::ops::Range;

use super::parts::Part;
use crate::Weights;
use crate::activation::{IntTiles, Rows, Tile};
use crate::blocks::Codes;
use crate::cells::Cells;
use crate::direct::direct;
use crate::panel::{Columns, FLOAT_COLS, INT_COLS, Packed, Panel};
use crate::simd::{self, BLOCK, FloatTile, IntRows, IntTile, LANES, Level, TILE};

#[derive(Clone, Copy)]
pub(super) enum Activations<'a> {
    Ints(&'a IntTiles, Codes),
    Floats(&'a [f32]),
}

/// Everything a part needs to know.
pub(super) struct Product<'a> {
    pub level: Level,
    pub w: &'a Weights<'a>,
    /// Of each row.
    pub outputs: usize,
    pub bias: Option<&'a [f32]>,
    pub rows: &'a Rows<'a>,
    pub activations: Activations<'a>,
    pub y: Cells<'a, f32>,
}

thread_local! {
    static PANEL: RefCell<Box<Panel>> = RefCell::new(Panel::new());
}

/// Where columns of a panel and a tile meet.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The first output of the panel, and how many it has.
    first: usize,
    outputs: usize,
    columns: Columns,
    tile: &'a Tile,
}

impl Product<'_> {
    pub fn compute(&self, part: &Part) {
        let (w, tiles) = (self.w, &self.rows.tiles[part.tiles.clone()]);
        PANEL.with_borrow_mut(|room| {
            for panel in part.panels.clone() {
                let (matrix, inside) = (panel / w.panels(), panel % w.panels() * LANES);
                let bytes = w.panel(tiles[0].matrix * w.panels() + panel);
                let (first, outputs) = (matrix * w.rows + inside, LANES.min(w.rows - inside));
                let place = |columns, tile| Place { first, outputs, columns, tile };
                let packed = |columns| Packed { format: w.format, bytes, columns };
                match self.activations {
                    Activations::Ints(x, codes) if let [tile] = tiles => {
                        let all = Columns { first: 0, count: w.cols };
                        self.direct(bytes, place(all, tile), x, codes);
                    }
                    Activations::Ints(x, codes) => {
                        for columns in Columns::of(w.cols, INT_COLS) {
                            room.unpack(self.level, &packed(columns));
                            tiles.iter().for_each(|tile| self.ints(room, place(columns, tile), x, codes));
                        }
                    }
                    Activations::Floats(x) => {
                        for columns in Columns::of(w.cols, FLOAT_COLS) {
                            room.widen(self.level, &packed(columns));
                            tiles.iter().for_each(|tile| self.floats(room, place(columns, tile), x));
                        }
                    }
                }
            }
        });
    }

    fn direct(&self, panel: &[u8], place: Place, x: &IntTiles, codes: Codes) {
        let tile = self.quantised(place, x, codes);
        self.sum(place, |acc| direct(self.level, self.w.format, panel, tile, acc));
    }

    /// A tile's part of the quantised activations.
    fn quantised<'a>(&self, place: Place, x: &'a IntTiles, codes: Codes) -> IntRows<'a> {
        // A tile's part of an array with an element per `size` columns.
        let piece = |size: usize| {
            let begin = (place.tile.first * self.w.cols + place.columns.first * place.tile.rows) / size;
            begin..begin + place.columns.count * place.tile.rows / size
        };
        IntRows {
            bytes: &x.bytes[piece(4)],
            scale: &x.scale[piece(BLOCK)],
            offset: &x.offset[piece(codes.group)],
            sum: &x.sum[piece(codes.group)],
        }
    }

    fn ints(&self, panel: &Panel, place: Place, x: &IntTiles, codes: Codes) {
        let groups = place.columns.count / codes.group;
        let operands = IntTile {
            group: codes.group,
            largest: codes.largest,
            codes: &panel.codes[..place.columns.count / 4],
            scale: &panel.scale[..groups],
            min: codes.minimum.then_some(&panel.min[..groups]),
            x: self.quantised(place, x, codes),
        };
        self.sum(place, |acc| simd::int_tile(self.level, &operands, acc));
    }

    fn floats(&self, panel: &Panel, place: Place, x: &[f32]) {
        let begin = place.tile.first * self.w.cols + place.columns.first * place.tile.rows;
        let operands = FloatTile {
            w: &panel.floats[..place.columns.count],
            x: &x[begin..begin + place.columns.count * place.tile.rows],
        };
        self.sum(place, |acc| simd::float_tile(self.level, &operands, acc));
    }

    /// Lets `add` go on with the sums of the columns before these, and keeps them; with the bias if they are complete.
    #[inline(always)]
    fn sum(&self, place: Place, add: impl FnOnce(&mut [[f32; LANES]])) {
        let mut room = [[0.0; LANES]; TILE];
        let acc = &mut room[..place.tile.rows];
        if place.columns.first > 0 {
            for (n, acc) in acc.iter_mut().enumerate() {
                // SAFETY: a panel and a tile meet in one part, and a row is in one tile.
                copy(unsafe { self.y.piece(self.outputs(place, n)) }, acc);
            }
        }
        add(acc);
        let bias = self.bias.filter(|_| place.columns.first + place.columns.count == self.w.cols);
        for (n, acc) in acc.iter().enumerate() {
            // SAFETY: as above.
            let y = unsafe { self.y.piece(self.outputs(place, n)) };
            copy(acc, y);
            if let Some(bias) = bias {
                y.iter_mut().zip(&bias[place.first..]).for_each(|(y, bias)| *y += bias);
            }
        }
    }

    /// Where the results of a panel for the `n`th row of a tile belong.
    #[inline(always)]
    fn outputs(&self, place: Place, n: usize) -> Range<usize> {
        let start = self.rows.row(place.tile.first + n) * self.outputs + place.first;
        start..start + place.outputs
    }
}

/// As many lanes as both have.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    match (from.first_chunk::<LANES>(), to.first_chunk_mut::<LANES>()) {
        (Some(from), Some(to)) => *to = *from,
        _ => to.iter_mut().zip(from).for_each(|(to, from)| *to = *from),
    }
}
