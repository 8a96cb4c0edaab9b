//! The transformer: pre-norm layers of attention and a feed-forward part, on one residual stream or on several.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::{
    Logits, Segment,
    attention::{Attention, Form},
    batch::Batch,
    cache::{self, KvCache},
    config::Config,
    experts::Experts,
    hyper::Hyper,
    linear::{Linear, Mlp, Weight},
    ops,
    profile::{Part, Profile},
    rope::Rope,
};

/// The second half of a layer.
pub enum FeedForward {
    Dense(Box<Mlp>),
    Experts(Box<Experts>),
}

/// One layer.
pub struct Layer {
    pub attention_norm: Tensor<1>,
    pub attention: Attention,
    pub feed_forward_norm: Tensor<1>,
    pub feed_forward: FeedForward,
    /// How the two halves mix the residual streams, where there are several.
    pub hyper: Option<[Hyper; 2]>,
}

/// What is wanted of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// `[n, vocab]`
    Logits,
    /// What the head would be given, `[n, dim]`.
    Hidden,
}

/// What a forward pass works on besides the weights.
pub struct State<'a> {
    pub cache: &'a mut KvCache,
    pub device: &'a Device,
    pub profile: &'a mut Profile,
}

/// The whole model, without a cache.
pub struct Transformer {
    pub config: Config,
    pub embedding: Weight,
    pub layers: Vec<Layer>,
    /// Makes one stream of several.
    pub hyper_head: Option<Hyper>,
    pub norm: Tensor<1>,
    pub head: Linear,
    /// Those of the model's layers; one in most, two in DeepSeek V4.
    pub ropes: Vec<Rope>,
}

impl Transformer {
    /// Computes latent attention in this form, where it has any.
    pub fn take_form(&mut self, form: Form) {
        for layer in &mut self.layers {
            if let Attention::Latent(latent) = &mut layer.attention {
                latent.form = form;
            }
        }
    }

    /// Runs the tokens of all segments and returns the output that they want, segment by segment; None if none wants any.
    pub fn forward(&self, segments: &[Segment], output: Output, state: State) -> Option<Tensor<2>> {
        let State { cache, device, profile } = state;
        let batch = Batch::of(segments, &self.ropes, device);
        let x = self.embedding.rows(batch.ids.clone());
        profile.stop(Part::Embedding);
        let x = match &self.hyper_head {
            None => self.one_stream(x, &batch, cache, profile),
            Some(head) => {
                let streams = (x, head.config.streams);
                head.head(self.streams(streams, &batch, cache, profile))
            }
        };
        let wanted = wanted(segments);
        if wanted.is_empty() {
            return None;
        }
        let all = wanted.len() == x.dims()[0];
        let x = if all { x } else { x.select(0, cache::indices(wanted, device)) };
        let x = self.normed(x, &self.norm);
        let x = match output {
            Output::Logits => self.head.of(x),
            Output::Hidden => x,
        };
        profile.stop(Part::Head);
        Some(x)
    }

    fn one_stream(&self, mut x: Tensor<2>, batch: &Batch, cache: &mut KvCache, profile: &mut Profile) -> Tensor<2> {
        for (i, layer) in self.layers.iter().enumerate() {
            let y = self.normed(x.clone(), &layer.attention_norm);
            x = x + layer.attention.of(i, y, batch, cache, &self.ropes);
            profile.stop(Part::Attention);
            let y = self.normed(x.clone(), &layer.feed_forward_norm);
            x = x + layer.feed_forward.of(y, batch);
            profile.stop(Part::FeedForward);
        }
        x
    }

    /// `x`, `[rows, dim]`, to `[rows, n, dim]`: `n` streams.
    fn streams(
        &self,
        (x, n): (Tensor<2>, usize),
        batch: &Batch,
        cache: &mut KvCache,
        profile: &mut Profile,
    ) -> Tensor<3> {
        let [rows, dim] = x.dims();
        let mut streams = x.unsqueeze_dim::<3>(1).expand([rows, n, dim]);
        for (i, layer) in self.layers.iter().enumerate() {
            let Some([first, second]) = &layer.hyper else { continue };
            let mix = first.mix(&streams);
            let y = self.normed(mix.input(&streams), &layer.attention_norm);
            streams = mix.output(streams, layer.attention.of(i, y, batch, cache, &self.ropes));
            profile.stop(Part::Attention);
            let mix = second.mix(&streams);
            let y = self.normed(mix.input(&streams), &layer.feed_forward_norm);
            streams = mix.output(streams, layer.feed_forward.of(y, batch));
            profile.stop(Part::FeedForward);
        }
        streams
    }

    fn normed(&self, x: Tensor<2>, weight: &Tensor<1>) -> Tensor<2> {
        ops::rms_norm(x, weight, self.config.norm_eps)
    }
}

impl FeedForward {
    fn of(&self, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
        match self {
            Self::Dense(mlp) => mlp.of(x),
            Self::Experts(experts) => experts.of(x, &batch.ids),
        }
    }
}

/// The rows of which logits are wanted.
fn wanted(segments: &[Segment]) -> Vec<i32> {
    let mut row = 0;
    let mut wanted = Vec::new();
    for segment in segments {
        let rows: Range<usize> = row..row + segment.tokens.len();
        row = rows.end;
        match segment.logits {
            Logits::None => {}
            Logits::Last => wanted.push(rows.end as i32 - 1),
            Logits::All => wanted.extend(rows.map(|row| row as i32)),
        }
    }
    wanted
}
