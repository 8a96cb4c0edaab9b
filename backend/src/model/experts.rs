//! A mixture of experts: each token goes to a few of many feed-forward layers (DeepSeek-AI 2024, "DeepSeekMoE").

use burn::tensor::{Bool, DType, Int, Tensor, activation};

use super::{
    config::{Choice, ExpertsConfig, Score},
    linear::{Mlp, Weight},
    ops,
};

/// How the experts of a token are found.
pub enum Pick {
    /// The highest scores, with this bias, `[1, experts]`, added for the choice.
    Scores { bias: Option<Tensor<2>> },
    /// A table, `[vocab, top]`, by token id.
    Table(Tensor<2, Int>),
}

pub struct Experts {
    pub config: ExpertsConfig,
    /// `[experts, dim]`
    pub router: Weight,
    pub pick: Pick,
    /// Gates and ups of every expert, one below the other.
    pub gate_up: Weight,
    pub down: Weight,
    /// Where every token goes.
    pub shared: Option<Mlp>,
}

impl Experts {
    /// `x`, `[n, dim]`, are the tokens `ids`, `[n]`.
    pub fn of(&self, x: Tensor<2>, ids: &Tensor<1, Int>) -> Tensor<2> {
        let [n, dim] = x.dims();
        let top = self.config.top;
        let scores = self.scores(self.router.of(x.clone()));
        let picked = match &self.pick {
            Pick::Scores { bias } => self.choose(scores.clone(), bias.as_ref()),
            Pick::Table(table) => table.clone().select(0, ids.clone()),
        };
        let weights = self.weigh(scores, picked.clone());
        let each = x.clone().unsqueeze_dim::<3>(1).expand([n, top, dim]).reshape([n * top, dim]);
        let picked = picked.cast(DType::I32).reshape([n * top]);
        let y = ops::swiglu(self.gate_up.of_experts(each, picked.clone()), self.config.limit);
        let y = self.down.of_experts(y, picked).reshape([n, top, dim]);
        let y = (y * weights.unsqueeze_dim::<3>(2)).sum_dim(1).reshape([n, dim]);
        match &self.shared {
            Some(shared) => y + shared.of(x),
            None => y,
        }
    }

    fn scores(&self, logits: Tensor<2>) -> Tensor<2> {
        match self.config.score {
            Score::Softmax => activation::softmax(logits, 1),
            Score::Sigmoid => activation::sigmoid(logits),
            // softplus(x) = max(x, 0) + log(1 + exp(-|x|))
            Score::SqrtSoftplus => (logits.clone().clamp_min(0.0) + logits.abs().neg().exp().log1p()).sqrt(),
        }
    }

    /// The experts of every token, `[n, top]`.
    fn choose(&self, scores: Tensor<2>, bias: Option<&Tensor<2>>) -> Tensor<2, Int> {
        let choice = match bias {
            Some(bias) => scores + bias.clone(),
            None => scores,
        };
        let (choice, dropped) = match self.config.choice {
            Choice::All => return choice.topk_with_indices(self.config.top, 1).1,
            // Dropped groups count as 0 here and as minus infinity below, as in the reference.
            Choice::GroupsByMax { groups, keep } => {
                let dropped = self.dropped(choice.clone(), groups, keep, |g| g.max_dim(2));
                (choice.mask_fill(dropped, 0.0), None)
            }
            Choice::GroupsByTopTwo { groups, keep } => {
                let dropped = self.dropped(choice.clone(), groups, keep, |g| g.topk(2, 2).sum_dim(2));
                (choice, Some(dropped))
            }
        };
        let choice = match dropped {
            Some(dropped) => choice.mask_fill(dropped, f32::NEG_INFINITY),
            None => choice,
        };
        choice.topk_with_indices(self.config.top, 1).1
    }

    /// Which experts, `[n, experts]`, are not in one of the `keep` best groups.
    fn dropped(
        &self,
        choice: Tensor<2>,
        groups: usize,
        keep: usize,
        best: impl Fn(Tensor<3>) -> Tensor<3>,
    ) -> Tensor<2, Bool> {
        let [n, experts] = choice.dims();
        let size = experts / groups;
        let score = best(choice.reshape([n, groups, size])).reshape([n, groups]);
        let (_, kept) = score.clone().topk_with_indices(keep, 1);
        let ones = Tensor::ones([n, keep], &score.device());
        let kept = Tensor::<2>::zeros([n, groups], &score.device()).scatter(
            1,
            kept,
            ones,
            burn::tensor::IndexingUpdateOp::Add,
        );
        kept.lower_scalar(0.5).unsqueeze_dim::<3>(2).expand([n, groups, size]).reshape([n, experts])
    }

    /// The weights of the picked experts, `[n, top]`.
    fn weigh(&self, scores: Tensor<2>, picked: Tensor<2, Int>) -> Tensor<2> {
        let weights = scores.gather(1, picked);
        let weights = match self.config.normalise {
            true => weights.clone() / (weights.sum_dim(1) + 1e-20),
            false => weights,
        };
        weights * self.config.scale
    }
}
