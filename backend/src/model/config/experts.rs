//! Mixtures of experts: how a router scores, picks and weighs them.

use super::{super::error::Problem, FeedForward, keys::Keys};

#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsConfig {
    pub experts: usize,
    /// Experts a token goes to.
    pub top: usize,
    /// Width of one expert.
    pub width: usize,
    /// Width of the experts that every token goes to, together; 0 if there are none.
    pub shared: usize,
    pub score: Score,
    pub choice: Choice,
    /// A bias is added to the scores for the choice, not for the weights.
    pub bias: bool,
    /// The weights of the picked experts are divided by their sum.
    pub normalise: bool,
    /// What the weights are multiplied with.
    pub scale: f32,
    /// Bound of gates and ups before the activation.
    pub limit: Option<f32>,
}

/// Logits to scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    Softmax,
    Sigmoid,
    /// `sqrt(softplus(x))`
    SqrtSoftplus,
}

/// Which experts may be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The highest of all.
    All,
    /// The highest of the `keep` groups, of `groups`, whose highest score is highest.
    GroupsByMax { groups: usize, keep: usize },
    /// The same, where a group counts as the sum of its two highest scores.
    GroupsByTopTwo { groups: usize, keep: usize },
}

impl ExpertsConfig {
    /// DeepSeek V2, V3 and V3.2.
    pub(super) fn read(keys: &Keys, version: &str) -> Result<Self, Problem> {
        let v2 = version == "deepseek_v2";
        let experts = keys.size_or("n_routed_experts", if v2 { 64 } else { 256 })?;
        let width = keys.size_or("moe_intermediate_size", if v2 { 1407 } else { 2048 })?;
        let grouped = |groups: usize, keep: usize| -> Result<(usize, usize), Problem> {
            if experts % groups != 0 {
                return Err(keys.wrong("n_group", groups, format!("a divisor of the {experts} experts")));
            }
            if keep > groups {
                return Err(keys.wrong("topk_group", keep, format!("at most the {groups} groups")));
            }
            Ok((groups, keep))
        };
        let choice = if v2 {
            keys.only("scoring_func", &["softmax"])?;
            match keys.str_or_none("topk_method")?.unwrap_or("greedy") {
                "greedy" => Choice::All,
                "group_limited_greedy" => {
                    let (groups, keep) = grouped(keys.size("n_group")?, keys.size("topk_group")?)?;
                    Choice::GroupsByMax { groups, keep }
                }
                other => return Err(keys.wrong("topk_method", other, "greedy or group_limited_greedy")),
            }
        } else {
            keys.only("scoring_func", &["sigmoid"])?;
            keys.only("topk_method", &["noaux_tc"])?;
            let (groups, keep) = grouped(keys.size_or("n_group", 8)?, keys.size_or("topk_group", 4)?)?;
            if experts / groups < 2 {
                return Err(keys.wrong("n_group", groups, "groups of two experts or more"));
            }
            Choice::GroupsByTopTwo { groups, keep }
        };
        for key in ["n_group", "topk_group", "norm_topk_prob"] {
            keys.get(key);
        }
        let config = Self {
            experts,
            top: keys.size_or("num_experts_per_tok", if v2 { 6 } else { 8 })?,
            width,
            shared: width * keys.count_or("n_shared_experts", if v2 { 2 } else { 1 })?,
            score: if v2 { Score::Softmax } else { Score::Sigmoid },
            choice,
            bias: !v2,
            // The reference never normalises V2's weights, whatever its configuration says.
            normalise: !v2 && keys.flag_or("norm_topk_prob", true)?,
            scale: keys.positive_or("routed_scaling_factor", if v2 { 1.0 } else { 2.5 })? as f32,
            limit: None,
        };
        config.checked(keys)
    }

    pub(super) fn v4(keys: &Keys) -> Result<Self, Problem> {
        let width = match keys.get("moe_intermediate_size") {
            Some(_) => keys.size("moe_intermediate_size")?,
            None => keys.size_or("intermediate_size", 2048)?,
        };
        keys.get("intermediate_size");
        keys.get("norm_topk_prob");
        let score = match keys.str_or_none("scoring_func")?.unwrap_or("sqrtsoftplus") {
            "sqrtsoftplus" => Score::SqrtSoftplus,
            "softmax" => Score::Softmax,
            "sigmoid" => Score::Sigmoid,
            other => return Err(keys.wrong("scoring_func", other, "sqrtsoftplus, softmax or sigmoid")),
        };
        let config = Self {
            experts: keys.size_or("n_routed_experts", keys.size_or("num_local_experts", 256)?)?,
            top: keys.size_or("num_experts_per_tok", 6)?,
            width,
            shared: width,
            score,
            choice: Choice::All,
            bias: true,
            normalise: true,
            scale: keys.positive_or("routed_scaling_factor", 1.5)? as f32,
            limit: Some(keys.positive_or("swiglu_limit", 10.0)? as f32),
        };
        config.checked(keys)
    }

    fn checked(self, keys: &Keys) -> Result<Self, Problem> {
        let reach = match self.choice {
            Choice::All => self.experts,
            Choice::GroupsByMax { groups, keep } | Choice::GroupsByTopTwo { groups, keep } => {
                self.experts / groups * keep
            }
        };
        if self.top > reach {
            return Err(keys.wrong("num_experts_per_tok", self.top, format!("at most {reach}, which can be picked")));
        }
        Ok(self)
    }
}

/// Which layers of V2, V3 and V3.2 have experts: as `mlp_layer_types` says, or all from `first_k_dense_replace` on.
pub(super) fn layers(keys: &Keys, layers: usize) -> Result<Vec<FeedForward>, Problem> {
    let width = keys.size("intermediate_size")?;
    let dense = FeedForward::Dense { width };
    if keys.get("moe_layer_freq").is_some_and(|freq| freq.as_u64() != Some(1)) {
        let found = keys.get("moe_layer_freq").map(ToString::to_string).unwrap_or_default();
        return Err(keys.wrong("moe_layer_freq", found, "1: experts in every layer after the dense ones"));
    }
    let first = keys.count_or("first_k_dense_replace", 0)?;
    let Some(types) = keys.words("mlp_layer_types", layers)? else {
        return Ok((0..layers).map(|i| if i < first { dense } else { FeedForward::Routed }).collect());
    };
    let one = |kind: &&str| match *kind {
        "dense" => Ok(dense),
        "sparse" => Ok(FeedForward::Routed),
        other => Err(keys.wrong("mlp_layer_types", format!("'{other}' for a layer"), "dense or sparse")),
    };
    types.iter().map(one).collect()
}
