//! How a product is cut into parts for threads.

use std::ops::Range;

use crate::activation::Tile;
use crate::simd::LANES;

/// Panels of one matrix, and tiles of activations that are multiplied with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub panels: Range<usize>,
    pub tiles: Range<usize>,
}

/// Products below which a part is not worth another thread's attention.
const SMALLEST: usize = 20_000;

/// Unpacking a panel costs as much as multiplying it with so many rows.
const UNPACKING: usize = 4;

/// Elements of activations that stay in a core's cache while panel after panel passes over them.
const CACHED: usize = 1 << 18;

/// Parts per thread: a core that falls behind leaves the rest to the others.
const PER_THREAD: usize = 6;

/// Cuts the product of tiles with `panels` panels of `cols` columns so that no thread waits long for another, and so that activations stay in the cache.
pub(super) fn plan(threads: usize, cols: usize, panels: usize, tiles: &[Tile]) -> Vec<Part> {
    let total: usize = runs(tiles, usize::MAX).map(|(_, rows)| panels * cost(cols, rows)).sum();
    let wanted = if threads == 1 { usize::MAX } else { (total / (threads * PER_THREAD)).max(SMALLEST) };
    let mut most = (CACHED / cols.max(1)).max(64);
    if threads > 1 && panels < threads * PER_THREAD {
        most = most.min((most * panels).div_ceil(threads * PER_THREAD).max(32));
    }
    let mut parts = Vec::new();
    for (tiles, rows) in runs(tiles, most) {
        let per_part = (wanted / cost(cols, rows).max(1)).clamp(1, panels.max(1));
        let pieces = panels.div_ceil(per_part);
        parts.extend(
            (0..pieces).map(|i| Part { panels: i * panels / pieces..(i + 1) * panels / pieces, tiles: tiles.clone() }),
        );
    }
    parts
}

/// Products that a panel's share of the work is worth.
fn cost(cols: usize, rows: usize) -> usize {
    cols * LANES * (rows + UNPACKING)
}

/// Runs of tiles of one matrix with `most` rows or little more, and their rows.
fn runs(tiles: &[Tile], most: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let first = tiles.get(next)?;
        let start = next;
        let mut rows = 0;
        while tiles.get(next).is_some_and(|tile| tile.matrix == first.matrix) && rows < most {
            rows += tiles[next].rows;
            next += 1;
        }
        Some((start..next, rows))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::cut;

    #[test]
    fn parts_cover_everything_once() {
        for (threads, rows, cols, counts) in [
            (1, 576usize, 576, vec![1]),
            (2, 576, 576, vec![1]),
            (2, 200, 1536, vec![512]),
            (16, 16, 64, vec![4096]),
            (3, 1000, 64, vec![1, 30, 7]),
            (2, 1, 32, vec![1]),
            (2, 0, 32, vec![5]),
        ] {
            let (mut tiles, mut first) = (Vec::new(), 0);
            for (matrix, count) in counts.iter().enumerate() {
                cut(matrix, first, *count, 8, &mut tiles);
                first += count;
            }
            let panels = rows.div_ceil(LANES);
            let mut seen = vec![0; panels * tiles.len()];
            let parts = plan(threads, cols, panels, &tiles);
            for part in &parts {
                assert!(part.tiles.clone().all(|tile| tiles[tile].matrix == tiles[part.tiles.start].matrix));
                for panel in part.panels.clone() {
                    part.tiles.clone().for_each(|tile| seen[panel * tiles.len() + tile] += 1);
                }
            }
            assert!(seen.iter().all(|times| *times == 1), "{threads} threads, {rows}x{cols}");
            assert!(threads == 1 || parts.len() >= threads || rows < 32 || first < 32, "{parts:?}");
        }
    }
}
