//! The ways models attend: over grouped heads, over latent vectors, over compressed summaries.

mod compressed;
mod compressor;
mod grouped;
mod indexer;
mod latent;

use burn::tensor::{Int, Tensor, TensorData, activation};

pub use compressed::{CompressedAttention, Summaries, SummaryIndexer};
pub use compressor::Compressor;
pub use grouped::GroupedAttention;
pub use indexer::Indexer;
pub use latent::{Form, LatentAttention};

use super::{batch::Batch, cache::KvCache, rope::Rope};

/// The first half of a layer.
pub enum Attention {
    Grouped(Box<GroupedAttention>),
    Latent(Box<LatentAttention>),
    Compressed(Box<CompressedAttention>),
}

impl Attention {
    /// `x`, `[rows, dim]`, to `[rows, dim]`; `ropes` are the model's.
    pub fn of(&self, layer: usize, x: Tensor<2>, batch: &Batch, cache: &mut KvCache, ropes: &[Rope]) -> Tensor<2> {
        match self {
            Self::Grouped(attention) => attention.of(layer, x, batch, cache),
            Self::Latent(attention) => attention.of(layer, x, batch, cache),
            Self::Compressed(attention) => attention.of(layer, x, batch, cache, ropes),
        }
    }
}

/// Attention of `q`, `[rows, heads, k_dim]`, whose scale is in it, over keys that all heads share, `[keys, k_dim]`, and
/// that begin with the values. `mask`, `[rows, keys]`, is added to the scores; `sinks`, `[heads]`, are scores of nothing.
/// The result is `[rows, heads, v_dim]`.
fn shared(
    q: Tensor<3>,
    keys: Tensor<2>,
    v_dim: usize,
    mask: Option<Tensor<2>>,
    sinks: Option<&Tensor<1>>,
) -> Tensor<3> {
    let [rows, heads, k_dim] = q.dims();
    let [n, _] = keys.dims();
    let scores = q.reshape([rows * heads, k_dim]).matmul(keys.clone().transpose()).reshape([rows, heads, n]);
    let scores = match mask {
        Some(mask) => scores + mask.unsqueeze_dim::<3>(1),
        None => scores,
    };
    let weights = match sinks {
        None => activation::softmax(scores, 2),
        Some(sinks) => {
            let sinks = sinks.clone().reshape([1, heads, 1]).expand([rows, heads, 1]);
            activation::softmax(Tensor::cat(vec![scores, sinks], 2), 2).slice_dim(2, 0..n)
        }
    };
    let values = if v_dim == k_dim { keys } else { keys.slice_dim(1, 0..v_dim) };
    weights.reshape([rows * heads, n]).matmul(values).reshape([rows, heads, v_dim])
}

/// A mask, `[rows, columns]`: 0 where `seen(row, column)`, minus infinity elsewhere.
fn mask(rows: usize, columns: usize, batch: &Batch, seen: impl Fn(usize, usize) -> bool) -> Tensor<2> {
    let one = |i: usize| if seen(i / columns, i % columns) { 0.0 } else { f32::NEG_INFINITY };
    let values: Vec<f32> = (0..rows * columns).map(one).collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), &batch.device)
}

/// A mask that shows of each row's scores, `[rows, columns]`, the highest `top` and no other.
fn highest(scores: Tensor<2>, top: usize) -> Tensor<2> {
    let [rows, columns] = scores.dims();
    let device = scores.device();
    let (_, picked): (_, Tensor<2, Int>) = scores.topk_with_indices(top.min(columns), 1);
    let ones = Tensor::ones(picked.dims(), &device);
    let seen =
        Tensor::<2>::zeros([rows, columns], &device).scatter(1, picked, ones, burn::tensor::IndexingUpdateOp::Add);
    seen.clone().zeros_like().mask_fill(seen.lower_scalar(0.5), f32::NEG_INFINITY)
}
