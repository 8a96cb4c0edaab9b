//! A part of a product: panels are made once, and multiplied with tile after tile.

use std::cell::RefCell;
use std::mem::take;
use std::ops::Range;

use super::parts::Part;
use crate::Weights;
use crate::activation::{IntTiles, Rows, Tile};
use crate::blocks::Codes;
use crate::cells::Cells;
use crate::direct::{MOST, Row, direct};
use crate::panel::{Columns, FLOAT_COLS, INT_COLS, Panel, PanelRows};
use crate::simd::{self, Ahead, BLOCK, FloatTile, IntTile, LANES, Level, TILE};

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

/// Where a panel and a tile meet.
#[derive(Clone, Copy)]
struct Place<'a> {
    rows: &'a PanelRows<'a>,
    columns: Columns,
    tile: &'a Tile,
    ahead: Ahead<'a>,
}

impl Product<'_> {
    pub fn compute(&self, part: &Part) {
        let tiles = &self.rows.tiles[part.tiles.clone()];
        PANEL.with_borrow_mut(|room| {
            for panel in part.panels.clone() {
                let rows = PanelRows::of(self.w, tiles[0].matrix, panel);
                if let Activations::Ints(x, codes) = self.activations
                    && codes.quarters
                    && tiles.iter().all(|tile| tile.rows == 1)
                {
                    tiles.chunks(MOST).for_each(|tiles| self.direct(&rows, tiles, x, codes));
                    continue;
                }
                let most = if matches!(self.activations, Activations::Ints(..)) { INT_COLS } else { FLOAT_COLS };
                for columns in Columns::of(self.w.cols, most) {
                    let mut ahead = match self.activations {
                        Activations::Ints(..) => room.unpack(self.level, &rows, columns),
                        Activations::Floats(_) => room.widen(self.level, &rows, columns),
                    };
                    for tile in tiles {
                        // The first tile calls what comes next to the cache.
                        let place = Place { rows: &rows, columns, tile, ahead: take(&mut ahead) };
                        match self.activations {
                            Activations::Ints(x, codes) => self.ints(room, place, x, codes),
                            Activations::Floats(x) => self.floats(room, place, x),
                        }
                    }
                }
            }
        });
    }

    fn direct(&self, rows: &PanelRows, tiles: &[Tile], x: &IntTiles, codes: Codes) {
        let mut own = [Row::default(); MOST];
        for (own, tile) in own.iter_mut().zip(tiles) {
            let piece = |size: usize| tile.first * self.w.cols / size..(tile.first + 1) * self.w.cols / size;
            *own = Row {
                x: &x.bytes[piece(4)],
                scale: &x.scale[piece(BLOCK)],
                offset: &x.offset[piece(codes.group)],
                sum: &x.sum[piece(codes.group)],
            };
        }
        let mut y = [[0.0; LANES]; MOST];
        let y = &mut y[..tiles.len()];
        direct(self.level, rows, &own[..tiles.len()], y);
        for (tile, y) in tiles.iter().zip(y) {
            let columns = Columns { first: 0, count: self.w.cols };
            let place = Place { rows, columns, tile, ahead: Ahead::default() };
            self.sum(place, |acc| acc[0] = *y);
        }
    }

    fn ints(&self, panel: &Panel, place: Place, x: &IntTiles, codes: Codes) {
        let groups = place.columns.count / codes.group;
        // A tile's part of an array with an element per `size` columns.
        let piece = |size: usize| {
            let begin = (place.tile.first * self.w.cols + place.columns.first * place.tile.rows) / size;
            begin..begin + place.columns.count * place.tile.rows / size
        };
        let operands = IntTile {
            group: codes.group,
            largest: codes.largest,
            codes: &panel.codes[..place.columns.count / 4],
            scale: &panel.scale[..groups],
            min: codes.minimum.then_some(&panel.min[..groups]),
            x: &x.bytes[piece(4)],
            x_scale: &x.scale[piece(BLOCK)],
            x_offset: &x.offset[piece(codes.group)],
            x_sum: &x.sum[piece(codes.group)],
            ahead: place.ahead,
        };
        self.sum(place, |acc| simd::int_tile(self.level, &operands, acc));
    }

    fn floats(&self, panel: &Panel, place: Place, x: &[f32]) {
        let begin = place.tile.first * self.w.cols + place.columns.first * place.tile.rows;
        let operands = FloatTile {
            w: &panel.floats[..place.columns.count],
            x: &x[begin..begin + place.columns.count * place.tile.rows],
            ahead: place.ahead,
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
                y.iter_mut().zip(&bias[place.rows.row..]).for_each(|(y, bias)| *y += bias);
            }
        }
    }

    /// Where the results of a panel for the `n`th row of a tile belong.
    #[inline(always)]
    fn outputs(&self, place: Place, n: usize) -> Range<usize> {
        let start = self.rows.row(place.tile.first + n) * self.w.rows + place.rows.row;
        start..start + place.rows.rows
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
