//! The shape of a transformer, read from the keys of a Hugging Face `config.json` (a GGUF file's metadata are translated
//! into the same keys). What changes the result and is not run here is refused by name.

mod compressed;
mod experts;
mod grouped;
mod keys;
mod latent;
mod rope;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use super::{
    cache::{KvDtype, Plane},
    error::Problem,
};
pub use compressed::{Compressed, CompressedLayer, Compression, HyperConfig};
pub use experts::{Choice, ExpertsConfig, Score};
pub use grouped::Grouped;
use keys::Keys;
pub use latent::{IndexerConfig, Latent};
pub use rope::{RopeConfig, Scaling};

/// Everything that tells one transformer from another. Lengths are in elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `model_type` of the configuration.
    pub architecture: String,
    /// Longest sequence, tokens.
    pub context_length: usize,
    /// Width of the residual stream.
    pub dim: usize,
    pub vocab: usize,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// The output matrix is the embedding.
    pub tied: bool,
    pub attention: AttentionConfig,
    /// What follows attention in each layer.
    pub feed_forward: Vec<FeedForward>,
    /// Of the layers that have experts.
    pub experts: Option<ExpertsConfig>,
    /// Keys of the configuration that say nothing this node knows.
    pub unread: Vec<String>,
}

/// How a model attends.
#[derive(Debug, Clone, PartialEq)]
pub enum AttentionConfig {
    /// Llama, Qwen2: heads of queries grouped over heads of keys and values.
    Grouped(Grouped),
    /// DeepSeek V2, V3, V3.2: keys and values from one latent vector a token.
    Latent(Latent),
    /// DeepSeek V4: a window of tokens, and summaries of what lies before.
    Compressed(Compressed),
}

/// The second half of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForward {
    /// One gated layer of this width.
    Dense { width: usize },
    /// Experts that a router picks.
    Routed,
    /// Experts that a table picks by token id.
    Hashed,
}

/// The `model_type`s that are run.
pub const ARCHITECTURES: [&str; 6] = ["llama", "qwen2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4"];

impl Config {
    /// Reads the configuration and checks that it makes sense.
    pub fn of(map: &Map<String, Value>) -> Result<Self, Problem> {
        let keys = Keys::of(map);
        let architecture = keys.str("model_type")?.to_owned();
        if !ARCHITECTURES.contains(&architecture.as_str()) {
            let custom = if map.contains_key("auto_map") {
                " (its repository brings code of its own, which is never run here)"
            } else {
                ""
            };
            return Err(Problem::Unsupported(format!(
                "the architecture '{architecture}' is not run here{custom}; {} are",
                ARCHITECTURES.join(", ")
            )));
        }
        keys.only("hidden_act", &["silu", "swiglu"])?;
        for key in ["mlp_bias", "add_cross_attention", "is_encoder_decoder"] {
            keys.off(key)?;
        }
        let layers = keys.size("num_hidden_layers")?;
        let dim = keys.size("hidden_size")?;
        let heads = keys.size("num_attention_heads")?;
        let (attention, feed_forward, experts) = match architecture.as_str() {
            "llama" | "qwen2" => {
                let dense = FeedForward::Dense { width: keys.size("intermediate_size")? };
                let grouped = Grouped::read(&keys, &architecture, layers, dim, heads)?;
                (AttentionConfig::Grouped(grouped), vec![dense; layers], None)
            }
            "deepseek_v4" => {
                let (attention, feed_forward) = Compressed::read(&keys, layers, heads)?;
                let experts = ExpertsConfig::v4(&keys)?;
                (AttentionConfig::Compressed(attention), feed_forward, Some(experts))
            }
            version => {
                let latent = Latent::read(&keys, version, heads)?;
                let feed_forward = experts::layers(&keys, layers)?;
                let routed = feed_forward.contains(&FeedForward::Routed);
                let experts = if routed { Some(ExpertsConfig::read(&keys, version)?) } else { None };
                (AttentionConfig::Latent(latent), feed_forward, experts)
            }
        };
        Ok(Self {
            context_length: keys.size_or("max_position_embeddings", compressed::CONTEXT)?,
            vocab: keys.size("vocab_size")?,
            norm_eps: keys.positive_or("rms_norm_eps", 1e-6)? as f32,
            tied: keys.flag_or("tie_word_embeddings", false)?,
            unread: keys.unread(),
            architecture,
            dim,
            attention,
            feed_forward,
            experts,
        })
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.feed_forward.len()
    }

    /// What the layer keeps of past tokens.
    pub fn planes(&self, layer: usize) -> Vec<Plane> {
        match &self.attention {
            AttentionConfig::Grouped(grouped) => grouped.planes(),
            AttentionConfig::Latent(latent) => latent.planes(),
            AttentionConfig::Compressed(compressed) => compressed.planes(layer),
        }
    }

    /// Bytes that all layers keep for a block of [`super::BLOCK_TOKENS`] tokens.
    pub fn kv_bytes_per_block(&self, dtype: KvDtype) -> u64 {
        let planes = (0..self.layers()).flat_map(|layer| self.planes(layer));
        planes.map(|plane| plane.numbers_per_block() * dtype.bytes()).sum()
    }

    /// Bytes that all layers keep for a token, rounded up.
    pub fn kv_bytes_per_token(&self, dtype: KvDtype) -> u64 {
        self.kv_bytes_per_block(dtype).div_ceil(super::BLOCK_TOKENS as u64)
    }
}
