//! A checkpoint's tensors as the parts of the transformer.

mod blocks;
mod compressed;
mod expected;
mod latent;
mod names;
mod source;
mod survey;

use crate::weights::Checkpoint;
use burn::tensor::{Device, Tensor, TensorData};
use littoral_kernels::{Arithmetic, Format};

use super::{
    attention::{Attention, GroupedAttention},
    config::{AttentionConfig, Config, ExpertsConfig, FeedForward as Kind},
    error::Problem,
    experts::{Experts, Pick},
    linear::Mlp,
    rope::Rope,
    transformer::{FeedForward, Layer, Transformer},
};
pub use names::skipped;
use source::Source;
pub use survey::Survey;

/// How weights are kept and computed with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Precision {
    pub arithmetic: Arithmetic,
    /// The format that matrices stored as plain numbers are brought into.
    pub quantize: Option<Format>,
}

/// What names a model's tensors have, by part.
struct Names {
    embedding: &'static str,
    norm: &'static str,
    head: &'static str,
    layer: &'static str,
    attention_norm: &'static str,
    feed_forward_norm: &'static str,
    feed_forward: &'static str,
    gate: &'static str,
    up: &'static str,
    down: &'static str,
    router_bias: &'static str,
}

/// Hugging Face's names.
const NAMES: Names = Names {
    embedding: "model.embed_tokens.weight",
    norm: "model.norm.weight",
    head: "lm_head.weight",
    layer: "model.layers.",
    attention_norm: "input_layernorm.weight",
    feed_forward_norm: "post_attention_layernorm.weight",
    feed_forward: "mlp.",
    gate: "gate_proj",
    up: "up_proj",
    down: "down_proj",
    router_bias: "gate.e_score_correction_bias",
};

/// DeepSeek's own names, since V4.
const V4_NAMES: Names = Names {
    embedding: "embed.weight",
    norm: "norm.weight",
    head: "head.weight",
    layer: "layers.",
    attention_norm: "attn_norm.weight",
    feed_forward_norm: "ffn_norm.weight",
    feed_forward: "ffn.",
    gate: "w1",
    up: "w3",
    down: "w2",
    router_bias: "gate.bias",
};

/// Builds the transformer. One matrix at a time exists twice; `progress` is told bytes done and bytes of all.
pub fn transformer(
    checkpoint: &Checkpoint,
    config: &Config,
    precision: Precision,
    device: &Device,
    progress: &dyn Fn(u64, u64),
) -> Result<Transformer, Problem> {
    let names = if config.architecture == "deepseek_v4" { &V4_NAMES } else { &NAMES };
    let mut source = Source::new(checkpoint, config, precision, device, progress)?;
    let (embedding, head) = source.ends([names.embedding, names.head], [config.vocab, config.dim], config.tied)?;
    let hyper = match &config.attention {
        AttentionConfig::Compressed(compressed) => Some(compressed.hyper),
        _ => None,
    };
    let mut layers = Vec::new();
    for i in 0..config.layers() {
        let at = format!("{}{i}.", names.layer);
        let attention = match &config.attention {
            AttentionConfig::Grouped(grouped) => {
                let prefix = format!("{at}self_attn.");
                let (q, kv) = (grouped.heads * grouped.head_dim, grouped.kv_heads * grouped.head_dim);
                let parts = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
                Attention::Grouped(Box::new(GroupedAttention {
                    qkv: source.linear(&prefix, &parts, config.dim, grouped.qkv_bias)?,
                    output: source.linear(&prefix, &[("o_proj", config.dim)], q, grouped.output_bias)?,
                    config: grouped.clone(),
                }))
            }
            AttentionConfig::Latent(latent) => {
                let prefix = format!("{at}self_attn.");
                Attention::Latent(Box::new(latent::attention(&mut source, &prefix, config.dim, latent)?))
            }
            AttentionConfig::Compressed(compressed) => {
                let prefix = format!("{at}attn.");
                Attention::Compressed(Box::new(compressed::attention(&mut source, &prefix, i, config, compressed)?))
            }
        };
        let prefix = format!("{at}{}", names.feed_forward);
        layers.push(Layer {
            attention_norm: source.vector(&format!("{at}{}", names.attention_norm), config.dim)?,
            attention,
            feed_forward_norm: source.vector(&format!("{at}{}", names.feed_forward_norm), config.dim)?,
            feed_forward: feed_forward(&mut source, &prefix, names, config, config.feed_forward[i])?,
            hyper: match hyper {
                None => None,
                Some(hyper) => {
                    let mut half = |name: &str| compressed::hyper(&mut source, &at, name, config, hyper);
                    Some([half("hc_attn_")?, half("hc_ffn_")?])
                }
            },
        });
    }
    let hyper_head = match hyper {
        None => None,
        Some(hyper) => Some(compressed::hyper(&mut source, "", "hc_head_", config, hyper)?),
    };
    let norm = source.vector(names.norm, config.dim)?;
    let factors = match (&config.attention, source.has("rope_freqs.weight")) {
        (AttentionConfig::Grouped(grouped), true) => Some(source.floats("rope_freqs.weight", &[grouped.head_dim / 2])?),
        _ => None,
    };
    source.finish()?;
    let ropes = match &config.attention {
        AttentionConfig::Grouped(grouped) => vec![Rope::new(&grouped.rope, factors.as_deref())],
        AttentionConfig::Latent(latent) => vec![Rope::new(&latent.rope, None)],
        AttentionConfig::Compressed(compressed) => {
            vec![Rope::new(&compressed.rope, None), Rope::new(&compressed.compress_rope, None)]
        }
    };
    Ok(Transformer { config: config.clone(), embedding, layers, hyper_head, norm, head, ropes })
}

fn feed_forward(
    source: &mut Source,
    prefix: &str,
    names: &Names,
    config: &Config,
    kind: Kind,
) -> Result<FeedForward, Problem> {
    let (experts, hashed) = match (kind, &config.experts) {
        (Kind::Routed, Some(experts)) => (experts, false),
        (Kind::Hashed, Some(experts)) => (experts, true),
        (Kind::Dense { width }, _) => {
            return Ok(FeedForward::Dense(Box::new(mlp(source, prefix, names, config.dim, width, None)?)));
        }
        (_, None) => return Err(Problem::Unsupported("layers of experts without a configuration of experts".into())),
    };
    let ExpertsConfig { width, shared, limit, .. } = *experts;
    let pick = if hashed {
        Pick::Table(source.table(&format!("{prefix}gate.tid2eid"), [config.vocab, experts.top], experts.experts)?)
    } else if experts.bias {
        let bias = source.vector(&format!("{prefix}{}", names.router_bias), experts.experts)?;
        Pick::Scores { bias: Some(bias.unsqueeze()) }
    } else {
        Pick::Scores { bias: None }
    };
    Ok(FeedForward::Experts(Box::new(Experts {
        router: source.exact(&format!("{prefix}gate.weight"), experts.experts, config.dim)?,
        pick,
        gate_up: source.stack(prefix, &[names.gate, names.up], [experts.experts, width, config.dim])?,
        down: source.stack(prefix, &[names.down], [experts.experts, config.dim, width])?,
        shared: match shared {
            0 => None,
            width => Some(mlp(source, &format!("{prefix}shared_experts."), names, config.dim, width, limit)?),
        },
        config: experts.clone(),
    })))
}

fn mlp(
    source: &mut Source,
    prefix: &str,
    names: &Names,
    dim: usize,
    width: usize,
    limit: Option<f32>,
) -> Result<Mlp, Problem> {
    Ok(Mlp {
        gate_up: source.linear(prefix, &[(names.gate, width), (names.up, width)], dim, false)?,
        down: source.linear(prefix, &[(names.down, dim)], width, false)?,
        limit,
    })
}

/// A tensor of ones, for norms without a weight.
fn ones(n: usize, device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(vec![1.0f32; n], [n]), device)
}
