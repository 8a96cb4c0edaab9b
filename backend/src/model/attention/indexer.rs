//! The indexer of DeepSeek's sparse attention (DeepSeek-AI 2025, "DeepSeek-V3.2"): small heads score what came before, and
//! attention sees what they score highest.

use burn::tensor::{Tensor, activation};
use littoral_kernels::Pairing;

use super::{
    super::{
        batch::Batch,
        cache::{self, KvCache},
        config::IndexerConfig,
        linear::Linear,
        ops::Span,
    },
    highest, mask,
};

/// Added to the variance in the norm of the keys.
const EPS: f32 = 1e-6;
/// The plane of the keys.
const KEYS: usize = 1;

pub struct Indexer {
    pub config: IndexerConfig,
    /// Queries of all heads from the queries' latent vector.
    pub q: Linear,
    /// One key and the weights of the heads, from the residual stream.
    pub key: Linear,
    pub weights: Linear,
    /// Weight and bias of the keys' layer norm, `[1, head_dim]` each.
    pub norm: (Tensor<2>, Tensor<2>),
}

/// The queries of a step.
pub struct Queries {
    /// `[rows, heads, head_dim]`, rotated.
    q: Tensor<3>,
    /// `[rows, heads]`, scaled.
    weights: Tensor<2>,
}

impl Indexer {
    /// Keeps the rows' keys, and makes their queries.
    pub fn store(&self, layer: usize, latent: Tensor<2>, x: Tensor<2>, batch: &Batch, cache: &mut KvCache) -> Queries {
        let IndexerConfig { heads, head_dim, .. } = self.config;
        let [rows, _] = x.dims();
        let key = self.layer_norm(self.key.of(x.clone())).reshape([rows, 1, head_dim]);
        let key = batch.rotations[0].apply(key, 0, Pairing::Halves).reshape([rows, head_dim]);
        cache.store(layer, KEYS, key, &batch.slots);
        let q = self.q.of(latent).reshape([rows, heads, head_dim]);
        let q = batch.rotations[0].apply(q, 0, Pairing::Halves);
        Queries { q, weights: self.weights.of(x) * (heads as f32).sqrt().recip() }
    }

    /// Scores of a sequence's rows over its positions, `[rows, len]`; minus infinity for what is to come.
    pub fn scores(&self, layer: usize, queries: &Queries, span: &Span, batch: &Batch, cache: &KvCache) -> Tensor<2> {
        let slots = cache::indices(cache::slots(span, 0..span.len()), &batch.device);
        let keys = cache.rows(layer, KEYS, slots);
        let scores = queries.of(span).scores(keys);
        scores + mask(span.rows, span.len(), batch, |row, key| key <= span.start + row)
    }

    /// Of `past`, `[len, width]`, what a single row sees; for several, all of it and a mask of what each does not.
    pub fn pick(&self, past: Tensor<2>, scores: Tensor<2>) -> (Tensor<2>, Option<Tensor<2>>) {
        let [rows, len] = scores.dims();
        let top = self.config.top.min(len);
        if rows == 1 {
            let (_, picked) = scores.topk_with_indices(top, 1);
            return (past.select(0, picked.reshape([top])), None);
        }
        // Rows with little past pick from what is to come as well: the causal mask stays.
        let causal = scores.clone().is_inf();
        (past, Some(highest(scores, top).mask_fill(causal, f32::NEG_INFINITY)))
    }

    /// LayerNorm (Ba et al. 2016) of `[rows, head_dim]`.
    fn layer_norm(&self, x: Tensor<2>) -> Tensor<2> {
        let centred = x.clone() - x.mean_dim(1);
        let variance = (centred.clone() * centred.clone()).mean_dim(1);
        centred / (variance + EPS).sqrt() * self.norm.0.clone() + self.norm.1.clone()
    }
}

impl Queries {
    /// From rotated queries, `[rows, heads, dim]`, and the heads' scaled weights, `[rows, heads]`.
    pub fn new(q: Tensor<3>, weights: Tensor<2>) -> Self {
        Self { q, weights }
    }

    /// Those of one sequence.
    pub fn of(&self, span: &Span) -> Self {
        let rows = span.row..span.row + span.rows;
        Self { q: self.q.clone().slice_dim(0, rows.clone()), weights: self.weights.clone().slice_dim(0, rows) }
    }

    /// `sum over heads of weight * relu(q k / sqrt(dim))`, `[rows, n]`, for keys `[n, dim]`.
    pub fn scores(self, keys: Tensor<2>) -> Tensor<2> {
        let [rows, heads, dim] = self.q.dims();
        let [n, _] = keys.dims();
        let scores = self.q.reshape([rows * heads, dim]).matmul(keys.transpose()) * (dim as f32).sqrt().recip();
        let scores = activation::relu(scores).reshape([rows, heads, n]);
        (scores * self.weights.unsqueeze_dim::<3>(2)).sum_dim(1).reshape([rows, n])
    }
}
