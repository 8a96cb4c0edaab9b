//! Multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1). A token leaves behind one latent vector,
//! from which the keys and values of all heads are made, and one rotated key that all heads share.
//!
//! It is computed in two forms that are equal but for rounding. *Expanded*: keys and values are made of the latent
//! vectors, then attended to. *Absorbed*: the matrix that would make the keys is applied to the queries instead, all heads
//! attend to the latent vectors themselves, and the matrix that would make the values is applied to what they found.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};
use littoral_kernels::{AttentionShape, Keys};

use super::{
    super::{
        BLOCK_TOKENS,
        batch::Batch,
        cache::{self, KvCache},
        config::Latent,
        linear::{Linear, Weight},
        ops::{self, PagedAttention, Span},
    },
    Indexer, shared,
};

/// Added to the mean square in the norms of latent vectors, whatever the configuration says of others.
const EPS: f32 = 1e-6;

/// Rows of a sequence from which on making keys and values costs less than attending to latent vectors.
const EXPAND_FROM: usize = 32;

/// Which form is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// What is cheaper for the rows of a sequence: absorbed for a few, expanded for many.
    #[default]
    Cheaper,
    Absorbed,
    Expanded,
}

pub struct LatentAttention {
    pub config: Latent,
    pub form: Form,
    /// The queries' latent vector (or, without one, the queries), then the latent vector of keys and values with the
    /// shared key.
    pub first: Linear,
    /// Norm and projection of the queries' latent vector.
    pub q: Option<(Tensor<1>, Linear)>,
    pub kv_norm: Tensor<1>,
    /// Keys of all heads from a latent vector, `[heads * nope, kv_rank]`.
    pub keys: Weight,
    /// The same matrix per head, transposed: `heads` times `[kv_rank, nope]`.
    pub absorb: Weight,
    /// Values per head from a latent vector: `heads` times `[value, kv_rank]`.
    pub values: Weight,
    pub output: Linear,
    pub indexer: Option<Indexer>,
}

impl LatentAttention {
    /// `[rows, dim]` to `[rows, dim]`.
    pub fn of(&self, layer: usize, x: Tensor<2>, batch: &Batch, cache: &mut KvCache) -> Tensor<2> {
        let Latent { heads, kv_rank, nope, rope_dim, value, pairing, .. } = self.config;
        let [rows, _] = x.dims();
        let rotation = &batch.rotations[0];
        let first = self.first.of(x.clone());
        let [_, width] = first.dims();
        let kv = first.clone().slice_dim(1, width - kv_rank - rope_dim..width);
        let q = first.slice_dim(1, 0..width - kv_rank - rope_dim);
        let (q, q_latent) = match &self.q {
            None => (q, None),
            Some((norm, project)) => {
                let latent = ops::rms_norm(q, norm, EPS);
                (project.of(latent.clone()), Some(latent))
            }
        };
        let q = rotation.apply(q.reshape([rows, heads, nope + rope_dim]), nope, pairing);
        let latent = ops::rms_norm(kv.clone().slice_dim(1, 0..kv_rank), &self.kv_norm, EPS);
        let key = kv.slice_dim(1, kv_rank..kv_rank + rope_dim).reshape([rows, 1, rope_dim]);
        let key = rotation.apply(key, 0, pairing).reshape([rows, rope_dim]);
        cache.store(layer, 0, Tensor::cat(vec![latent, key], 1), &batch.slots);
        let queries = match (&self.indexer, q_latent) {
            (Some(indexer), Some(latent)) => Some(indexer.store(layer, latent, x, batch, cache)),
            _ => None,
        };
        let sparse = |span: &Span| self.indexer.as_ref().is_some_and(|indexer| span.len() > indexer.config.top);
        let mut out = Vec::new();
        // Neighbours that take the absorbed form go together, all others one by one.
        for (together, run) in batch.runs(|span| !sparse(span) && self.absorbs(span)) {
            if together {
                let (spans, rows) = batch.part(run);
                out.push(self.absorbed(q.clone().slice_dim(0, rows), cache.plane(layer, 0), spans));
                continue;
            }
            for span in &batch.spans[run] {
                let rows = span.row..span.row + span.rows;
                let q = q.clone().slice_dim(0, rows.clone());
                let slots = cache::indices(cache::slots(span, 0..span.len()), &batch.device);
                let past = cache.rows(layer, 0, slots);
                out.push(match (&self.indexer, &queries) {
                    (Some(indexer), Some(queries)) if sparse(span) => {
                        let scores = indexer.scores(layer, queries, span, batch, cache);
                        let (past, mask) = indexer.pick(past, scores);
                        let found = shared(self.absorb(q) * self.config.scale, past, kv_rank, mask, None);
                        self.make_values(found)
                    }
                    _ => self.expanded(q, past, span),
                });
            }
        }
        let out = if out.len() == 1 { out.remove(0) } else { Tensor::cat(out, 0) };
        self.output.of(out.reshape([rows, heads * value]))
    }

    fn absorbs(&self, span: &Span) -> bool {
        match self.form {
            Form::Absorbed => true,
            Form::Expanded => false,
            Form::Cheaper => span.rows < EXPAND_FROM,
        }
    }

    /// `q`, `[n, heads, nope + rope]`, attends to the latent vectors in `plane`.
    fn absorbed(&self, q: Tensor<3>, plane: &Tensor<2>, spans: Arc<Vec<Span>>) -> Tensor<3> {
        let Latent { heads, kv_rank, scale, .. } = self.config;
        let shape = AttentionShape {
            heads,
            kv_heads: 1,
            k_dim: self.config.cached(),
            v_dim: kv_rank,
            scale,
            window: None,
            block_tokens: BLOCK_TOKENS,
        };
        self.make_values(ops::attention(
            self.absorb(q),
            plane,
            plane,
            PagedAttention { shape, keys: Keys::Rows, spans },
        ))
    }

    /// `q`, `[rows, heads, nope + rope]`, attends to keys and values made of `past`, `[len, kv_rank + rope]`.
    fn expanded(&self, q: Tensor<3>, past: Tensor<2>, span: &Span) -> Tensor<3> {
        let Latent { heads, kv_rank, nope, rope_dim, value, scale, .. } = self.config;
        let [len, width] = past.dims();
        let latent = past.clone().slice_dim(1, 0..kv_rank);
        let key = past.slice_dim(1, kv_rank..width).reshape([len, 1, rope_dim]).expand([len, heads, rope_dim]);
        let k = Tensor::cat(vec![self.keys.of(latent.clone()).reshape([len, heads, nope]), key], 2);
        let v = self.values.of(latent);
        let shape = AttentionShape {
            heads,
            kv_heads: heads,
            k_dim: nope + rope_dim,
            v_dim: value,
            scale,
            window: None,
            block_tokens: BLOCK_TOKENS,
        };
        let blocks = (0..len.div_ceil(BLOCK_TOKENS) as i32).collect();
        let spans = Arc::new(vec![Span { row: 0, blocks, ..*span }]);
        ops::attention(
            q,
            &k.reshape([len, heads * (nope + rope_dim)]),
            &v,
            PagedAttention { shape, keys: Keys::Rows, spans },
        )
    }

    /// Queries that meet latent vectors: `[n, heads, nope + rope]` to `[n, heads, kv_rank + rope]`.
    fn absorb(&self, q: Tensor<3>) -> Tensor<3> {
        let Latent { heads, kv_rank, nope, rope_dim, .. } = self.config;
        let [n, ..] = q.dims();
        let plain = q.clone().slice_dim(2, 0..nope).reshape([n * heads, nope]);
        let plain = self.absorb.of_experts(plain, self.heads(n, &q)).reshape([n, heads, kv_rank]);
        Tensor::cat(vec![plain, q.slice_dim(2, nope..nope + rope_dim)], 2)
    }

    /// What the heads found among latent vectors, `[n, heads, kv_rank]`, to `[n, heads, value]`.
    fn make_values(&self, found: Tensor<3>) -> Tensor<3> {
        let Latent { heads, kv_rank, value, .. } = self.config;
        let [n, ..] = found.dims();
        let heads_of = self.heads(n, &found);
        self.values.of_experts(found.reshape([n * heads, kv_rank]), heads_of).reshape([n, heads, value])
    }

    /// The head of each row of `[n * heads, ..]`.
    fn heads(&self, n: usize, like: &Tensor<3>) -> Tensor<1, Int> {
        let heads = self.config.heads as i32;
        cache::indices((0..n).flat_map(|_| 0..heads).collect(), &like.device())
    }
}
