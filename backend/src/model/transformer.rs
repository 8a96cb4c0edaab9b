//! The transformer of the llama family: pre-norm blocks of grouped-query attention and a gated feed-forward layer
//! (Touvron et al. 2023, "LLaMA"; Ainslie et al. 2023, "GQA").

use burn::tensor::{Device, Tensor, TensorData};

use super::{
    Segment,
    attention::{self, Chunk},
    cache::{KvCache, Place},
    config::Config,
    embedding::Embedding,
    linear::Linear,
    rope::{Rope, Rotation},
};

/// One block. Names are the file's.
pub struct Layer {
    pub attn_norm: Tensor<2>,
    /// Query, key and value projections, one below the other.
    pub qkv: Linear,
    pub attn_output: Linear,
    pub ffn_norm: Tensor<2>,
    pub ffn_gate: Linear,
    pub ffn_up: Linear,
    pub ffn_down: Linear,
}

/// The whole model, without a cache.
pub struct Transformer {
    pub config: Config,
    pub embedding: Embedding,
    pub layers: Vec<Layer>,
    pub output_norm: Tensor<2>,
    pub output: Linear,
    pub rope: Rope,
}

/// What every layer of one step needs.
struct Batch {
    rotation: Rotation,
    places: Vec<Place>,
    /// The queries of each segment, and what they see.
    chunks: Vec<Vec<Chunk>>,
}

impl Transformer {
    /// Runs the tokens of all segments and returns the logits, `[n, vocab]`, of the tokens they are wanted of; None
    /// if of none.
    pub fn forward(&self, segments: &[Segment], cache: &mut KvCache, device: &Device) -> Option<Tensor<2>> {
        let positions: Vec<usize> = segments.iter().flat_map(|s| s.start..s.start + s.tokens.len()).collect();
        let batch = Batch {
            rotation: self.rope.at(&positions, device),
            places: segments.iter().map(|s| Place::of(s, device)).collect(),
            chunks: segments.iter().map(|s| attention::chunks(s.tokens.len(), s.start, device)).collect(),
        };
        let mut x = self.embedding.of(segments.iter().flat_map(|s| s.tokens).copied(), device);
        for (i, layer) in self.layers.iter().enumerate() {
            let y = self.norm(x.clone(), &layer.attn_norm);
            x = x + layer.attn_output.of(self.attention(i, y, &batch, cache));
            let y = self.norm(x.clone(), &layer.ffn_norm);
            let gate = silu(layer.ffn_gate.of(y.clone()));
            x = x + layer.ffn_down.of(gate * layer.ffn_up.of(y));
        }
        let mut row = 0;
        let mut last = Vec::new();
        for segment in segments {
            row += segment.tokens.len();
            last.extend((row - segment.wanted()..row).map(|row| row as i32));
        }
        if last.is_empty() {
            return None;
        }
        let last = Tensor::from_data(TensorData::from(last.as_slice()), device);
        let x = self.norm(x.select(0, last), &self.output_norm);
        Some(self.output.of(x))
    }

    /// `[rows, dim]` to `[rows, heads * head_dim]`.
    fn attention(&self, layer: usize, y: Tensor<2>, batch: &Batch, cache: &mut KvCache) -> Tensor<2> {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let [rows, _] = y.dims();
        let qkv = self.layers[layer].qkv.of(y).reshape([rows, heads + 2 * kv_heads, head_dim]);
        let qk = batch.rotation.apply(qkv.clone().slice_dim(1, 0..heads + kv_heads));
        let q = qk.clone().slice_dim(1, 0..heads);
        let k = qk.slice_dim(1, heads..heads + kv_heads);
        let v = qkv.slice_dim(1, heads + kv_heads..heads + 2 * kv_heads);
        cache.write(layer, &batch.places, k, v);
        let mut row = 0;
        let mut out = Vec::with_capacity(batch.places.len());
        for (place, chunks) in batch.places.iter().zip(&batch.chunks) {
            let q = q.clone().slice_dim(0, row..row + place.tokens);
            out.push(attention::grouped(q, cache.read(layer, place), chunks));
            row += place.tokens;
        }
        Tensor::cat(out, 0)
    }

    /// RMSNorm (Zhang and Sennrich 2019): `x / sqrt(mean(x^2) + eps) * weight`.
    fn norm(&self, x: Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
        let mean_square = (x.clone() * x.clone()).mean_dim(1);
        x * (mean_square + self.config.norm_eps).sqrt().recip() * weight.clone()
    }
}

/// `x * sigmoid(x)`, written so that it takes one exponential and no branch.
fn silu(x: Tensor<2>) -> Tensor<2> {
    let denominator = x.clone().neg().exp() + 1.0;
    x / denominator
}
