//! Attention of DeepSeek V4: one key for all heads, which is its own value; a window of tokens as they are, and before it
//! summaries, all of them or those an indexer picks; a sink for each head, which takes a share and gives nothing.

use burn::tensor::Tensor;
use littoral_kernels::Pairing;

use super::{
    super::{
        batch::Batch,
        cache::{self, KvCache},
        config::Compressed,
        linear::{Linear, Weight},
        ops::{self, Span},
        rope::Rope,
    },
    Compressor, highest,
    indexer::Queries,
    mask, shared,
};

pub struct CompressedAttention {
    pub config: Compressed,
    pub eps: f32,
    /// The queries' latent vector, then the key.
    pub first: Linear,
    pub q_norm: Tensor<1>,
    pub q: Linear,
    /// Ones, `[head_dim]`: the queries' norm has no weight.
    pub ones: Tensor<1>,
    pub kv_norm: Tensor<1>,
    /// `[heads]`
    pub sinks: Tensor<1>,
    /// `groups` matrices, each of a group's heads to `output_rank` elements.
    pub groups: Weight,
    pub output: Linear,
    pub summaries: Option<Summaries>,
}

/// What a layer sees beyond its window.
pub struct Summaries {
    pub compressor: Compressor,
    pub indexer: Option<SummaryIndexer>,
}

/// Scores summaries, from summaries of its own.
pub struct SummaryIndexer {
    pub compressor: Compressor,
    pub q: Linear,
    pub weights: Linear,
    pub heads: usize,
    pub top: usize,
}

/// Which of the step's rotations, and of the model's ropes, a layer uses.
const MAIN: usize = 0;
const COMPRESS: usize = 1;

impl CompressedAttention {
    /// `[rows, dim]` to `[rows, dim]`.
    pub fn of(&self, layer: usize, x: Tensor<2>, batch: &Batch, cache: &mut KvCache, ropes: &[Rope]) -> Tensor<2> {
        let Compressed { heads, head_dim, rope_dim, q_rank, groups, output_rank, .. } = self.config;
        let [rows, _] = x.dims();
        let rotation = &batch.rotations[if self.summaries.is_some() { COMPRESS } else { MAIN }];
        let start = head_dim - rope_dim;
        let first = self.first.of(x.clone());
        let latent = ops::rms_norm(first.clone().slice_dim(1, 0..q_rank), &self.q_norm, self.eps);
        let q = self.q.of(latent.clone()).reshape([rows, heads, head_dim]);
        let q = rotation.apply(ops::rms_norm(q, &self.ones, self.eps), start, Pairing::Interleaved);
        let q = q * (head_dim as f32).sqrt().recip();
        let kv = ops::rms_norm(first.slice_dim(1, q_rank..q_rank + head_dim), &self.kv_norm, self.eps);
        let kv = rotation.apply(kv.reshape([rows, 1, head_dim]), start, Pairing::Interleaved);
        cache.store(layer, 0, kv.reshape([rows, head_dim]), &batch.slots);
        let queries = self.summaries.as_ref().and_then(|summaries| {
            summaries.compressor.store(layer, x.clone(), batch, &ropes[COMPRESS], cache);
            let indexer = summaries.indexer.as_ref()?;
            indexer.compressor.store(layer, x.clone(), batch, &ropes[COMPRESS], cache);
            Some(indexer.queries(latent, x, batch))
        });
        let attend = |span: &Span| {
            let q = q.clone().slice_dim(0, span.row..span.row + span.rows);
            self.attend(layer, q, queries.as_ref(), span, batch, cache)
        };
        let out = Tensor::cat(batch.spans.iter().map(attend).collect(), 0);
        // A value carries its key's rotation; taken back, it tells how far away the key was.
        let out = rotation.back().apply(out, start, Pairing::Interleaved);
        let out = out.reshape([rows * groups, heads / groups * head_dim]);
        let group = cache::indices((0..rows).flat_map(|_| 0..groups as i32).collect(), &batch.device);
        self.output.of(self.groups.of_experts(out, group).reshape([rows, groups * output_rank]))
    }

    fn attend(
        &self,
        layer: usize,
        q: Tensor<3>,
        queries: Option<&Queries>,
        span: &Span,
        batch: &Batch,
        cache: &KvCache,
    ) -> Tensor<3> {
        let window = self.config.window;
        let low = (span.start + 1).saturating_sub(window);
        let slots = cache::indices(cache::slots(span, low..span.len()), &batch.device);
        let mut keys = cache.rows(layer, 0, slots);
        let mut seen = mask(span.rows, span.len() - low, batch, |row, key| {
            let (query, key) = (span.start + row, low + key);
            key <= query && key + window > query
        });
        if let Some(Summaries { compressor, indexer }) = &self.summaries {
            let count = compressor.count(span.len());
            if count > 0 {
                let there = mask(span.rows, count, batch, |row, entry| entry < compressor.count(span.start + row + 1));
                let there = match (indexer, queries) {
                    (Some(indexer), Some(queries)) if count > indexer.top => {
                        let scores = queries.of(span).scores(indexer.compressor.read(layer, span, batch, cache));
                        // Rows that see few pick from what is to come as well: their mask stays.
                        highest(scores + there.clone(), indexer.top) + there
                    }
                    _ => there,
                };
                keys = Tensor::cat(vec![keys, compressor.read(layer, span, batch, cache)], 0);
                seen = Tensor::cat(vec![seen, there], 1);
            }
        }
        shared(q, keys, self.config.head_dim, Some(seen), Some(&self.sinks))
    }
}

impl SummaryIndexer {
    /// `latent` is the queries' latent vector of the rows `x`.
    fn queries(&self, latent: Tensor<2>, x: Tensor<2>, batch: &Batch) -> Queries {
        let (dim, rope_dim) = (self.compressor.dim, self.compressor.rope_dim);
        let [rows, _] = x.dims();
        let q = self.q.of(latent).reshape([rows, self.heads, dim]);
        let q = batch.rotations[COMPRESS].apply(q, dim - rope_dim, Pairing::Interleaved);
        Queries::new(q, self.weights.of(x) * (self.heads as f32).sqrt().recip())
    }
}
