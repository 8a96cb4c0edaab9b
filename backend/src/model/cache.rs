//! What layers keep of past tokens, in blocks that the scheduler owns.
//!
//! Everything kept is a function of a position and of what came before it, and lies in the block of that position: a
//! block that two sequences share means the same to both. A sequence's table names its blocks in order; block `b` holds
//! the tokens at the slots `b * BLOCK_TOKENS ..`.

use std::{fmt, ops::Range};

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use littoral_kernels::{Arithmetic, Keys};

use super::{
    BLOCK_TOKENS, Segment,
    config::{AttentionConfig, Config},
    device::Kind,
    error::Problem,
    ops::{self, Span},
};

/// What keys and values are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    F32,
    /// The nearest f16, at most the largest finite one. Computed with as f32.
    F16,
}

impl KvDtype {
    /// What is asked for, if it can be had; else f16 where it can be and arithmetic is fast.
    pub(super) fn of(
        asked: Option<Self>,
        config: &Config,
        arithmetic: Arithmetic,
        device: Kind,
    ) -> Result<Self, Problem> {
        const CURE: &str = "give --kv-cache-dtype f32, or leave it out";
        // What summaries are made of takes part in sums of many tokens.
        let summaries = matches!(config.attention, AttentionConfig::Compressed(_));
        match asked {
            Some(Self::F16) if device == Kind::Gpu => {
                Err(Problem::Device(format!("a KV cache in f16 is for the CPU; GPUs keep f32: {CURE}")))
            }
            Some(Self::F16) if summaries => {
                Err(Problem::Unsupported(format!("{} keeps its KV cache in f32: {CURE}", config.architecture)))
            }
            Some(asked) => Ok(asked),
            None if device == Kind::Cpu && arithmetic == Arithmetic::Fast && !summaries => Ok(Self::F16),
            None => Ok(Self::F32),
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

impl From<KvDtype> for DType {
    fn from(dtype: KvDtype) -> Self {
        match dtype {
            KvDtype::F32 => Self::F32,
            KvDtype::F16 => Self::F16,
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

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

    /// How many numbers a block has of it.
    pub fn numbers_per_block(self) -> u64 {
        (self.rows * self.width) as u64
    }
}

/// The planes of all layers.
pub struct KvCache {
    layers: Vec<Vec<Option<Tensor<2>>>>,
    pub blocks: usize,
}

impl KvCache {
    pub fn new(config: &Config, blocks: usize, dtype: KvDtype, device: &Device) -> Self {
        let plane = |plane: Plane| Some(ops::zeros([blocks * plane.rows, plane.width], dtype, device));
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

    /// For [`ops::attention`], which takes it as it is kept.
    pub fn plane(&self, layer: usize, plane: usize) -> &Tensor<2> {
        self.layers[layer][plane].as_ref().expect("a plane is out only while it is written")
    }

    /// Rows of a plane, f32.
    pub fn rows(&self, layer: usize, plane: usize, slots: Tensor<1, Int>) -> Tensor<2> {
        self.plane(layer, plane).clone().select(0, slots).cast(FloatDType::F32)
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
