//! Hyper-connections (Zhu et al. 2024) with doubly stochastic mixing, as DeepSeek V4 has them: a layer reads a mixture of
//! several residual streams, writes to all of them, and mixes them among each other.

use burn::tensor::{Tensor, activation};

use super::{config::HyperConfig, linear::Weight, ops};

/// The mixing of one half of a layer.
pub struct Hyper {
    pub config: HyperConfig,
    pub eps: f32,
    /// Ones, `[streams * dim]`: the norm has no weight.
    pub ones: Tensor<1>,
    /// From all streams to their `pre`, `post` and `comb` logits.
    pub project: Weight,
    /// Scale and bias of those logits, `[1, (2 + streams) * streams]` each.
    pub scale: Tensor<2>,
    pub base: Tensor<2>,
}

/// What one half of a layer does with the streams.
pub struct Mix {
    /// What the streams are weighed with to make the input, `[rows, streams, 1]`.
    pre: Tensor<3>,
    /// How much of the output each stream takes, `[rows, streams, 1]`.
    post: Tensor<3>,
    /// From which streams, `[rows, from, to]`, each is made anew.
    comb: Tensor<3>,
}

impl Hyper {
    /// `streams` is `[rows, streams, dim]`.
    pub fn mix(&self, streams: &Tensor<3>) -> Mix {
        let HyperConfig { streams: n, sinkhorn_iterations, eps } = self.config;
        let [rows, ..] = streams.dims();
        let logits = self.logits(streams);
        let part = |from: usize, len: usize| logits.clone().slice_dim(1, from..from + len);
        let pre = activation::sigmoid(part(0, n)) + eps;
        let post = activation::sigmoid(part(n, n)) * 2.0;
        let comb = activation::softmax(part(2 * n, n * n).reshape([rows, n, n]), 2) + eps;
        let mut comb = comb.clone() / (comb.sum_dim(1) + eps);
        for _ in 1..sinkhorn_iterations {
            comb = comb.clone() / (comb.sum_dim(2) + eps);
            comb = comb.clone() / (comb.sum_dim(1) + eps);
        }
        Mix { pre: pre.unsqueeze_dim(2), post: post.unsqueeze_dim(2), comb }
    }

    /// The logits of all that is mixed, `[rows, ..]`.
    fn logits(&self, streams: &Tensor<3>) -> Tensor<2> {
        let [rows, n, dim] = streams.dims();
        let flat = ops::rms_norm(streams.clone().reshape([rows, n * dim]), &self.ones, self.eps);
        self.project.of(flat) * self.scale.clone() + self.base.clone()
    }

    /// The last mixture, of which logits are made: `[rows, streams, dim]` to `[rows, dim]`.
    pub fn head(&self, streams: Tensor<3>) -> Tensor<2> {
        let pre = activation::sigmoid(self.logits(&streams)) + self.config.eps;
        weighed(streams, pre.unsqueeze_dim(2))
    }
}

impl Mix {
    /// What the layer reads, `[rows, dim]`.
    pub fn input(&self, streams: &Tensor<3>) -> Tensor<2> {
        weighed(streams.clone(), self.pre.clone())
    }

    /// The streams after the layer wrote `out`, `[rows, dim]`.
    pub fn output(self, streams: Tensor<3>, out: Tensor<2>) -> Tensor<3> {
        self.post * out.unsqueeze_dim::<3>(1) + self.comb.swap_dims(1, 2).matmul(streams)
    }
}

/// The sum of the streams, each with its weight, `[rows, streams, 1]`.
fn weighed(streams: Tensor<3>, weights: Tensor<3>) -> Tensor<2> {
    let [rows, _, dim] = streams.dims();
    (streams * weights).sum_dim(1).reshape([rows, dim])
}
