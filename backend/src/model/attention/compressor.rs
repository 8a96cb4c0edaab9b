//! Summaries of windows of tokens (DeepSeek V4). A summary is a weighted mean of its tokens' projections, channel by
//! channel, with weights that the tokens carry themselves; with overlap it also looks at the window before, in channels of
//! its own.
//!
//! A summary belongs to the token that completes it, and is kept in that token's block; so are the projections that the
//! next summaries are made of.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData, activation};
use littoral_kernels::Pairing;

use super::super::{
    BLOCK_TOKENS,
    batch::Batch,
    cache::{self, KvCache},
    config::Compression,
    linear::Linear,
    ops::{self, Span},
    rope::Rope,
};

pub struct Compressor {
    pub compression: Compression,
    /// Elements of a summary, of which the last are rotated.
    pub dim: usize,
    pub rope_dim: usize,
    /// Projections, then the weights' logits; `2 * compression.width(dim)` outputs.
    pub project: Linear,
    /// Added to the logits by the place in the window, `[rate, width]`.
    pub places: Tensor<2>,
    pub norm: Tensor<1>,
    pub eps: f32,
    /// Planes of the projections and of the summaries.
    pub planes: [usize; 2],
}

impl Compressor {
    /// Makes the summaries that the rows complete, and keeps them.
    pub fn store(&self, layer: usize, x: Tensor<2>, batch: &Batch, rope: &Rope, cache: &mut KvCache) {
        let width = self.compression.width(self.dim);
        let raw = self.project.of(x);
        let places = batch.spans.iter().flat_map(|span| span.start..span.len());
        let places = places.map(|position| (position % self.compression.rate) as i32).collect();
        let places = self.places.clone().select(0, cache::indices(places, &batch.device));
        let logits = raw.clone().slice_dim(1, width..2 * width) + places;
        let raw = Tensor::cat(vec![raw.slice_dim(1, 0..width), logits], 1);
        for span in batch.spans.iter() {
            let rows = raw.clone().slice_dim(0, span.row..span.row + span.rows);
            self.summarise(layer, rows.clone(), span, batch, rope, cache);
            let kept: Vec<usize> = (span.start..span.len()).filter(|p| self.stays(*p, span.len())).collect();
            let index = kept.iter().map(|p| (p - span.start) as i32).collect();
            let slots = kept.iter().map(|p| self.slot(span, *p)).collect();
            let rows = rows.select(0, cache::indices(index, &batch.device));
            cache.store(layer, self.planes[0], rows, &cache::indices(slots, &batch.device));
        }
    }

    /// The summaries of a sequence, `[count, dim]`.
    pub fn read(&self, layer: usize, span: &Span, batch: &Batch, cache: &KvCache) -> Tensor<2> {
        let slots = (0..self.count(span.len())).map(|window| self.entry(span, window)).collect();
        cache.rows(layer, self.planes[1], cache::indices(slots, &batch.device))
    }

    /// Summaries that `tokens` tokens complete.
    pub fn count(&self, tokens: usize) -> usize {
        tokens / self.compression.rate
    }

    /// `raw` are the span's new rows, logits with their places added.
    fn summarise(&self, layer: usize, raw: Tensor<2>, span: &Span, batch: &Batch, rope: &Rope, cache: &mut KvCache) {
        let Compression { rate, overlap } = self.compression;
        let windows = self.count(span.start)..self.count(span.len());
        if windows.is_empty() {
            return;
        }
        // The first position that any of the windows looks at.
        let low = windows.start.saturating_sub(usize::from(overlap)) * rate;
        let all = if low < span.start {
            let slots = (low..span.start).map(|position| self.slot(span, position)).collect();
            let old = cache.rows(layer, self.planes[0], cache::indices(slots, &batch.device));
            Tensor::cat(vec![old, raw], 0)
        } else {
            raw.slice_dim(0, low - span.start..span.rows)
        };
        let width = self.compression.width(self.dim);
        // Projections or logits (from column `from` on) of some windows, `[windows, rate, dim]`.
        let cut = |windows: Range<usize>, from: usize| {
            let rows = windows.start * rate - low..windows.end * rate - low;
            let part = all.clone().slice_dim(0, rows).slice_dim(1, from..from + self.dim);
            part.reshape([windows.len(), rate, self.dim])
        };
        let (kv, logits) = if overlap {
            let (kv, logits) = (cut(windows.clone(), self.dim), cut(windows.clone(), width + self.dim));
            let before = windows.start.saturating_sub(1)..windows.end - 1;
            let mut kv_before = Vec::new();
            let mut logits_before = Vec::new();
            if windows.start == 0 {
                // Before the first window there is nothing.
                let nothing = |value: f32| {
                    let values = vec![value; rate * self.dim];
                    Tensor::<3>::from_data(TensorData::new(values, [1, rate, self.dim]), &batch.device)
                };
                kv_before.push(nothing(0.0));
                logits_before.push(nothing(f32::NEG_INFINITY));
            }
            if !before.is_empty() {
                kv_before.push(cut(before.clone(), 0));
                logits_before.push(cut(before, width));
            }
            kv_before = vec![Tensor::cat(kv_before, 0), kv];
            logits_before = vec![Tensor::cat(logits_before, 0), logits];
            (Tensor::cat(kv_before, 1), Tensor::cat(logits_before, 1))
        } else {
            (cut(windows.clone(), 0), cut(windows.clone(), width))
        };
        let summary = (activation::softmax(logits, 1) * kv).sum_dim(1).reshape([windows.len(), self.dim]);
        let summary = ops::rms_norm(summary, &self.norm, self.eps).reshape([windows.len(), 1, self.dim]);
        let starts: Vec<usize> = windows.clone().map(|window| window * rate).collect();
        let rotation = rope.at(starts.into_iter(), &batch.device);
        let summary = rotation.apply(summary, self.dim - self.rope_dim, Pairing::Interleaved);
        let slots = windows.clone().map(|window| self.entry(span, window)).collect();
        let summary = summary.reshape([windows.len(), self.dim]);
        cache.store(layer, self.planes[1], summary, &cache::indices(slots, &batch.device));
    }

    /// Rows that a block has for projections.
    fn ring(&self) -> usize {
        self.compression.span().min(BLOCK_TOKENS)
    }

    /// Where a position's projections are kept, until a later position of the same block takes their place.
    fn slot(&self, span: &Span, position: usize) -> i32 {
        span.blocks[position / BLOCK_TOKENS] * self.ring() as i32 + (position % self.ring()) as i32
    }

    /// Whether no position before `end` takes this one's place.
    fn stays(&self, position: usize, end: usize) -> bool {
        let next = position + self.ring();
        next >= end || next / BLOCK_TOKENS != position / BLOCK_TOKENS
    }

    /// Where a summary is kept.
    fn entry(&self, span: &Span, window: usize) -> i32 {
        let rate = self.compression.rate;
        let rows = (BLOCK_TOKENS / rate).max(1);
        let last = window * rate + rate - 1;
        let place = if rate <= BLOCK_TOKENS { last % BLOCK_TOKENS / rate } else { 0 };
        span.blocks[last / BLOCK_TOKENS] * rows as i32 + place as i32
    }
}
