//! Scaled dot-product attention with query heads grouped over shared keys and values.

use burn::tensor::Tensor;
use littoral_kernels::{AttentionShape, Keys};

use super::super::{
    BLOCK_TOKENS,
    batch::Batch,
    cache::KvCache,
    config::Grouped,
    linear::Linear,
    ops::{self, PagedAttention},
};

pub struct GroupedAttention {
    pub config: Grouped,
    /// Query, key and value projections, one below the other.
    pub qkv: Linear,
    pub output: Linear,
}

impl GroupedAttention {
    /// `[rows, dim]` to `[rows, dim]`.
    pub fn of(&self, layer: usize, x: Tensor<2>, batch: &Batch, cache: &mut KvCache) -> Tensor<2> {
        let Grouped { heads, kv_heads, head_dim, pairing, .. } = self.config;
        let [rows, _] = x.dims();
        let qkv = self.qkv.of(x).reshape([rows, heads + 2 * kv_heads, head_dim]);
        let v = qkv.clone().slice_dim(1, heads + kv_heads..heads + 2 * kv_heads).reshape([rows, kv_heads * head_dim]);
        let qk = batch.rotations[0].apply(qkv.slice_dim(1, 0..heads + kv_heads), 0, pairing);
        let q = qk.clone().slice_dim(1, 0..heads);
        let k = qk.slice_dim(1, heads..heads + kv_heads).reshape([rows, kv_heads * head_dim]);
        cache.store_keys(layer, 0, k, &batch.slots);
        cache.store(layer, 1, v, &batch.slots);
        let shape = AttentionShape {
            heads,
            kv_heads,
            k_dim: head_dim,
            v_dim: head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            window: self.config.windows[layer],
            block_tokens: BLOCK_TOKENS,
        };
        let plan = PagedAttention { shape, keys: Keys::Turned, spans: batch.spans.clone() };
        let out = ops::attention(q, cache.plane(layer, 0), cache.plane(layer, 1), plan);
        self.output.of(out.reshape([rows, heads * head_dim]))
    }
}
