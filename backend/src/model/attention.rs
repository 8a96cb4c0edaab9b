//! Scaled dot-product attention of one sequence, with query heads grouped over shared keys and values.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData, activation};

use super::cache::Past;

/// Queries that are scored together. Scores of a long prompt stay small, and keys that none of the queries may see are
/// never scored.
const QUERIES: usize = 128;

/// Queries of a segment and the keys they see.
pub struct Chunk {
    queries: Range<usize>,
    keys: usize,
    /// Added to the scores: 0 where a query may look, minus infinity where the key is in its future;
    /// `[1, 1, queries, keys]`.
    mask: Tensor<4>,
}

/// Cuts a segment of `tokens` tokens that begins at position `start`. A single token sees everything: no chunks.
pub fn chunks(tokens: usize, start: usize, device: &Device) -> Vec<Chunk> {
    let chunk = |first: usize| {
        let queries = first..tokens.min(first + QUERIES);
        let keys = start + queries.end;
        let mut mask = vec![0.0; queries.len() * keys];
        for (position, row) in (start + first..).zip(mask.chunks_exact_mut(keys)) {
            row[position + 1..].fill(f32::NEG_INFINITY);
        }
        let mask = Tensor::from_data(TensorData::new(mask, [1, 1, queries.len(), keys]), device);
        Chunk { queries, keys, mask }
    };
    if tokens == 1 { Vec::new() } else { (0..tokens).step_by(QUERIES).map(chunk).collect() }
}

/// `softmax(q k^T / sqrt(head_dim) + mask) v`. `q` is `[tokens, heads, head_dim]`; the result is
/// `[tokens, heads * head_dim]`.
pub fn grouped(q: Tensor<3>, past: Past, chunks: &[Chunk]) -> Tensor<2> {
    let [_, heads, head_dim] = q.dims();
    let q = q * (head_dim as f32).sqrt().recip();
    if chunks.is_empty() {
        return one(q, past);
    }
    let Past { k, v } = past;
    let [blocks, kv_heads, _, block_tokens] = k.dims();
    let k = k.permute([1, 2, 0, 3]).reshape([kv_heads, head_dim, blocks * block_tokens]);
    let attend = |chunk: &Chunk| {
        let q = q.clone().slice_dim(0, chunk.queries.clone());
        let k = k.clone().slice_dim(2, 0..chunk.keys);
        let v = v.clone().slice_dim(1, 0..chunk.keys);
        let (queries, keys, group) = (chunk.queries.len(), chunk.keys, heads / kv_heads);
        // Query heads of one key head come below each other: [kv_heads, group * queries, head_dim].
        let q = q.reshape([queries, kv_heads, group, head_dim]).permute([1, 2, 0, 3]);
        let scores = q.reshape([kv_heads, group * queries, head_dim]).matmul(k);
        let scores = scores.reshape([kv_heads, group, queries, keys]) + chunk.mask.clone();
        let scores = scores.reshape([kv_heads, group * queries, keys]);
        let out = activation::softmax(scores, 2).matmul(v).reshape([kv_heads, group, queries, head_dim]);
        out.permute([2, 0, 1, 3]).reshape([queries, heads * head_dim])
    };
    Tensor::cat(chunks.iter().map(attend).collect(), 0)
}

/// The newest token alone, which sees all keys. Its scores are made block by block, where the keys lie.
fn one(q: Tensor<3>, Past { k, v }: Past) -> Tensor<2> {
    let [_, heads, head_dim] = q.dims();
    let [blocks, kv_heads, _, block_tokens] = k.dims();
    let [_, keys, _] = v.dims();
    let group = heads / kv_heads;
    let scores = q.reshape([1, kv_heads, group, head_dim]).matmul(k).permute([1, 2, 0, 3]);
    // The last block's empty places are scored too, and left out here.
    let scores = scores.reshape([kv_heads, group, blocks * block_tokens]).slice_dim(2, 0..keys);
    activation::softmax(scores, 2).matmul(v).reshape([1, heads * head_dim])
}
