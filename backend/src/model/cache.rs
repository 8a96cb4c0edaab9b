//! Keys and values of past tokens, in blocks that the scheduler owns.
//!
//! Block `b` holds the tokens at the slots `b * BLOCK_TOKENS ..`; a sequence's table names its blocks in order. Where
//! those lie one after the other, a sequence's past is a view of the cache; otherwise it is gathered.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{BLOCK_TOKENS, Segment, config::Config};

/// One layer's keys and values, each in the order in which attention reads it.
struct LayerKv {
    /// `[blocks, kv_heads, head_dim, BLOCK_TOKENS]`
    k: Tensor<4>,
    /// `[kv_heads, slots, head_dim]`
    v: Tensor<3>,
}

/// A sequence's keys and values in one layer.
pub struct Past {
    /// `[blocks, kv_heads, head_dim, BLOCK_TOKENS]`; the last block may have empty places.
    pub k: Tensor<4>,
    /// `[kv_heads, len, head_dim]`
    pub v: Tensor<3>,
}

/// The keys and values of all layers.
pub struct KvCache {
    layers: Vec<Option<LayerKv>>,
    pub blocks: usize,
}

/// Where one segment's tokens lie in the cache. Worked out once per step, used in every layer.
pub struct Place {
    /// The new tokens by block: block, first place in it, number of tokens.
    by_block: Vec<(usize, usize, usize)>,
    /// The new tokens by runs of neighbouring slots: first slot, number of tokens.
    runs: Vec<(usize, usize)>,
    /// First block of the sequence.
    first: usize,
    /// Ids of the blocks, where they are no neighbours.
    gather: Option<Tensor<1, Int>>,
    /// Blocks in use.
    blocks: usize,
    /// New tokens.
    pub tokens: usize,
    /// Tokens to attend to: the past ones and the new.
    len: usize,
}

impl Place {
    /// The segment has been checked against the cache.
    pub fn of(segment: &Segment, device: &Device) -> Self {
        let len = segment.start + segment.tokens.len();
        let used = &segment.blocks[..len.div_ceil(BLOCK_TOKENS)];
        let (mut by_block, mut runs) = (Vec::new(), Vec::<(usize, usize)>::new());
        let mut position = segment.start;
        while position < len {
            let (block, place) = (used[position / BLOCK_TOKENS] as usize, position % BLOCK_TOKENS);
            let n = (BLOCK_TOKENS - place).min(len - position);
            let slot = block * BLOCK_TOKENS + place;
            by_block.push((block, place, n));
            match runs.last_mut() {
                Some((first, run)) if *first + *run == slot => *run += n,
                _ => runs.push((slot, n)),
            }
            position += n;
        }
        let neighbours = used.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let ids = || used.iter().map(|b| b.cast_signed()).collect::<Vec<i32>>();
        let gather = (!neighbours).then(|| Tensor::from_data(TensorData::new(ids(), [used.len()]), device));
        let (first, blocks) = (used[0] as usize, used.len());
        Self { by_block, runs, first, gather, blocks, tokens: segment.tokens.len(), len }
    }
}

impl KvCache {
    pub fn new(config: &Config, blocks: usize, device: &Device) -> Self {
        let Config { layers, kv_heads, head_dim, .. } = *config;
        let layer = || LayerKv {
            k: Tensor::zeros([blocks, kv_heads, head_dim, BLOCK_TOKENS], device),
            v: Tensor::zeros([kv_heads, blocks * BLOCK_TOKENS, head_dim], device),
        };
        Self { layers: (0..layers).map(|_| Some(layer())).collect(), blocks }
    }

    /// Stores the new tokens' keys and values, `[rows, kv_heads, head_dim]` with the rows of all segments one after the
    /// other.
    pub fn write(&mut self, layer: usize, places: &[Place], k: Tensor<3>, v: Tensor<3>) {
        // Taken out, so that the tensors have one owner and are written in place.
        let Some(mut kv) = self.layers[layer].take() else { return };
        let [_, kv_heads, head_dim] = k.dims();
        let k = k.permute([1, 2, 0]);
        let v = v.swap_dims(0, 1);
        let mut row = 0;
        for (block, place, n) in places.iter().flat_map(|p| &p.by_block).copied() {
            let new = k.clone().slice_dim(2, row..row + n).unsqueeze::<4>();
            kv.k = kv.k.slice_assign([block..block + 1, 0..kv_heads, 0..head_dim, place..place + n], new);
            row += n;
        }
        let mut row = 0;
        for (slot, n) in places.iter().flat_map(|p| &p.runs).copied() {
            let new = v.clone().slice_dim(1, row..row + n);
            kv.v = kv.v.slice_assign([0..kv_heads, slot..slot + n, 0..head_dim], new);
            row += n;
        }
        self.layers[layer] = Some(kv);
    }

    /// A sequence's keys and values from its first token to its newest.
    pub fn read(&self, layer: usize, place: &Place) -> Past {
        let kv = self.layers[layer].as_ref().expect("a layer's cache is out only while it is written");
        let (k, v) = (kv.k.clone(), kv.v.clone());
        let [kv_heads, slots, head_dim] = v.dims();
        match &place.gather {
            None => {
                let slot = place.first * BLOCK_TOKENS;
                Past {
                    k: k.slice_dim(0, place.first..place.first + place.blocks),
                    v: v.slice_dim(1, slot..slot + place.len),
                }
            }
            Some(ids) => {
                let v = v.reshape([kv_heads, slots / BLOCK_TOKENS, BLOCK_TOKENS * head_dim]).select(1, ids.clone());
                let v = v.reshape([kv_heads, place.blocks * BLOCK_TOKENS, head_dim]);
                Past { k: k.select(0, ids.clone()), v: v.slice_dim(1, 0..place.len) }
            }
        }
    }
}
