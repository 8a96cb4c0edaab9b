//! What layers keep of past tokens, in blocks that the scheduler owns.
//!
//! Everything kept is a function of a position and of what came before it, and lies in the block of that position: a
//! block that two sequences share means the same to both. A sequence's table names its blocks in order; block `b` holds
//! the tokens at the slots `b * BLOCK_TOKENS ..`.

use std::ops::Range;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use littoral_kernels::Keys;

use super::{
    BLOCK_TOKENS, Segment,
    config::Config,
    ops::{self, Span},
};

/// A matrix of a layer that grows with the tokens: `rows` rows of `width` elements for each block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plane {
    pub rows: usize,
    pub width: usize,
}

impl Plane {
    /// One row a token.
    pub fn tokens(width: usize) -> Self {
        Self { rows: BLOCK_TOKENS, width }
    }

    /// In f32.
    pub fn bytes_per_block(self) -> u64 {
        (self.rows * self.width) as u64 * super::F32
    }
}

/// The planes of all layers.
pub struct KvCache {
    layers: Vec<Vec<Option<Tensor<2>>>>,
    pub blocks: usize,
}

impl KvCache {
    pub fn new(config: &Config, blocks: usize, device: &Device) -> Self {
        let plane = |plane: Plane| Some(ops::zeros([blocks * plane.rows, plane.width], device));
        let layer = |layer| config.planes(layer).into_iter().map(plane).collect();
        Self { layers: (0..config.layers()).map(layer).collect(), blocks }
    }

    /// Writes rows over those of a plane; `slots` counts rows of the plane.
    pub fn store(&mut self, layer: usize, plane: usize, rows: Tensor<2>, slots: &Tensor<1, Int>) {
        self.store_as(layer, plane, rows, slots, Keys::Rows);
    }

    /// Writes keys that only [`ops::attention`] reads.
    pub fn store_keys(&mut self, layer: usize, plane: usize, keys: Tensor<2>, slots: &Tensor<1, Int>) {
        self.store_as(layer, plane, keys, slots, Keys::Turned);
    }

    fn store_as(&mut self, layer: usize, plane: usize, rows: Tensor<2>, slots: &Tensor<1, Int>, keys: Keys) {
        // Taken out, so that the tensor has one owner and is written in place.
        let Some(cache) = self.layers[layer][plane].take() else { return };
        self.layers[layer][plane] = Some(ops::store(cache, rows, slots, keys));
    }

    pub fn plane(&self, layer: usize, plane: usize) -> &Tensor<2> {
        self.layers[layer][plane].as_ref().expect("a plane is out only while it is written")
    }
}

/// Rows of a plane with a row per token that hold these positions of a sequence.
pub fn slots(span: &Span, positions: Range<usize>) -> Vec<i32> {
    let slot = |p: usize| span.blocks[p / BLOCK_TOKENS] * BLOCK_TOKENS as i32 + (p % BLOCK_TOKENS) as i32;
    positions.map(slot).collect()
}

/// The spans of a step's segments, whose rows lie one after the other. The segments have been checked.
pub fn spans(segments: &[Segment]) -> Vec<Span> {
    let mut row = 0;
    let one = |segment: &Segment| {
        let rows = segment.tokens.len();
        let used = (segment.start + rows).div_ceil(BLOCK_TOKENS);
        let blocks = segment.blocks[..used].iter().map(|block| block.cast_signed()).collect();
        let span = Span { row, rows, start: segment.start, blocks };
        row += rows;
        span
    };
    segments.iter().map(one).collect()
}

/// A tensor of indices.
pub fn indices(list: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let n = list.len();
    Tensor::from_data(TensorData::new(list, [n]), (device, DType::I32))
}
