//! Multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2"), and V3.2's indexer that picks what it sees.

use littoral_kernels::Pairing;

use super::{
    super::{cache::Plane, error::Problem},
    keys::Keys,
    rope::RopeConfig,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Latent {
    pub heads: usize,
    /// Width of the queries' latent vector; without one they come from the residual stream in one step.
    pub q_rank: Option<usize>,
    /// Width of the latent vector of keys and values: what is cached, with `rope` elements beside it.
    pub kv_rank: usize,
    /// Elements of a head that are not rotated, and that are.
    pub nope: usize,
    pub rope_dim: usize,
    /// Elements of a head's value.
    pub value: usize,
    /// The first projections and the output have a bias.
    pub bias: bool,
    /// What scores are multiplied with.
    pub scale: f32,
    pub rope: RopeConfig,
    pub pairing: Pairing,
    pub indexer: Option<IndexerConfig>,
}

/// DeepSeek sparse attention: each query sees the `top` tokens that small heads score highest.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexerConfig {
    pub heads: usize,
    pub head_dim: usize,
    pub top: usize,
}

impl Latent {
    pub(super) fn read(keys: &Keys, version: &str, heads: usize) -> Result<Self, Problem> {
        if let Some(found) = keys.get("num_key_value_heads").filter(|n| n.as_u64() != Some(heads as u64)) {
            return Err(keys.wrong("num_key_value_heads", found, format!("the {heads} attention heads")));
        }
        let sparse = version == "deepseek_v32";
        // Null means none; a key that is not there means the default.
        let q_rank = match keys.has("q_lora_rank") {
            true if keys.get("q_lora_rank").is_none() => None,
            true => Some(keys.size("q_lora_rank")?),
            false => Some(1536),
        };
        if sparse && q_rank.is_none() {
            return Err(keys.wrong("q_lora_rank", "null", "a width: the indexer's queries come from that vector"));
        }
        let (nope, rope_dim) = (keys.size_or("qk_nope_head_dim", 128)?, keys.size_or("qk_rope_head_dim", 64)?);
        // Says the width of the rotary embedding again.
        keys.get("head_dim");
        keys.get("qk_head_dim");
        let rope = RopeConfig::read(keys, rope_dim)?;
        let interleaved = sparse || keys.flag_or("rope_interleave", true)?;
        let indexer = if sparse { Some(IndexerConfig::read(keys, rope_dim, 2048)?) } else { None };
        if sparse && let Some(types) = keys.get("layer_types") {
            let known = types.as_array().is_some_and(|list| list.iter().all(|kind| kind == "indexed_attention"));
            if !known {
                return Err(keys.wrong("layer_types", types, "indexed_attention for every layer"));
            }
        }
        Ok(Self {
            heads,
            q_rank,
            kv_rank: keys.size_or("kv_lora_rank", 512)?,
            nope,
            rope_dim,
            value: keys.size_or("v_head_dim", 128)?,
            bias: keys.flag_or("attention_bias", false)?,
            scale: (((nope + rope_dim) as f64).powf(-0.5) * rope.score_scale()) as f32,
            rope,
            pairing: if interleaved { Pairing::Interleaved } else { Pairing::Halves },
            indexer,
        })
    }

    /// Elements of a head's query.
    pub fn query(&self) -> usize {
        self.nope + self.rope_dim
    }

    /// Elements cached for a token: its latent vector and its rotated key.
    pub fn cached(&self) -> usize {
        self.kv_rank + self.rope_dim
    }

    pub(super) fn planes(&self) -> Vec<Plane> {
        let index = self.indexer.as_ref().map(|indexer| Plane::tokens(indexer.head_dim));
        std::iter::once(Plane::tokens(self.cached())).chain(index).collect()
    }
}

impl IndexerConfig {
    pub(super) fn read(keys: &Keys, rope_dim: usize, top: usize) -> Result<Self, Problem> {
        let indexer = Self {
            heads: keys.size_or("index_n_heads", 64)?,
            head_dim: keys.size_or("index_head_dim", 128)?,
            top: keys.size_or("index_topk", top)?,
        };
        if indexer.head_dim < rope_dim {
            return Err(keys.wrong(
                "index_head_dim",
                indexer.head_dim,
                format!("qk_rope_head_dim, {rope_dim}, or more"),
            ));
        }
        Ok(indexer)
    }
}
