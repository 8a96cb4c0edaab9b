//! Names and shapes of all tensors that a configuration asks for.

use super::{
    super::config::{AttentionConfig, Compressed, CompressedLayer, Compression, Config, FeedForward, Grouped, Latent},
    NAMES, Names, V4_NAMES,
};

/// A tensor that a configuration asks for, by its name here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: Role,
}

/// What a tensor is for, as far as it says how it may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The embedding, and the output matrix: one will do where they are tied.
    End,
    /// The matrices of all experts of a layer, `[experts, rows, cols]`; they may also be stored one by one, and are then
    /// called `experts.<number>.` in place of `experts.`.
    Experts,
    Other,
}

/// All of them, in the order of the layers.
pub fn expected(config: &Config) -> Vec<Expected> {
    let names = if config.architecture == "deepseek_v4" { &V4_NAMES } else { &NAMES };
    let mut list = List { all: Vec::new() };
    let ends = [names.embedding, names.head];
    ends.iter().for_each(|name| list.add((*name).into(), &[config.vocab, config.dim], Role::End));
    for layer in 0..config.layers() {
        let at = format!("{}{layer}.", names.layer);
        list.other(format!("{at}{}", names.attention_norm), &[config.dim]);
        list.other(format!("{at}{}", names.feed_forward_norm), &[config.dim]);
        match &config.attention {
            AttentionConfig::Grouped(grouped) => list.grouped(&format!("{at}self_attn."), config, grouped),
            AttentionConfig::Latent(latent) => list.latent(&format!("{at}self_attn."), config, latent),
            AttentionConfig::Compressed(compressed) => {
                list.compressed(&format!("{at}attn."), config, compressed, compressed.layers[layer]);
                let streams = compressed.hyper.streams;
                for half in ["hc_attn_", "hc_ffn_"] {
                    list.hyper(&format!("{at}{half}"), config, streams * (2 + streams), streams, 3);
                }
            }
        }
        list.feed_forward(&format!("{at}{}", names.feed_forward), names, config, config.feed_forward[layer]);
    }
    list.other(names.norm.into(), &[config.dim]);
    if let AttentionConfig::Compressed(Compressed { hyper, .. }) = &config.attention {
        list.hyper("hc_head_", config, hyper.streams, hyper.streams, 1);
    }
    list.all
}

struct List {
    all: Vec<Expected>,
}

impl List {
    fn add(&mut self, name: String, shape: &[usize], kind: Role) {
        self.all.push(Expected { name, shape: shape.into(), kind });
    }

    fn other(&mut self, name: String, shape: &[usize]) {
        self.add(name, shape, Role::Other);
    }

    /// A layer `<at><name>`, with a bias or not.
    fn linear(&mut self, at: &str, name: &str, [rows, cols]: [usize; 2], bias: bool) {
        self.other(format!("{at}{name}.weight"), &[rows, cols]);
        if bias {
            self.other(format!("{at}{name}.bias"), &[rows]);
        }
    }

    fn grouped(&mut self, at: &str, config: &Config, grouped: &Grouped) {
        let (q, kv) = (grouped.heads * grouped.head_dim, grouped.kv_heads * grouped.head_dim);
        for (name, rows) in [("q_proj", q), ("k_proj", kv), ("v_proj", kv)] {
            self.linear(at, name, [rows, config.dim], grouped.qkv_bias);
        }
        self.linear(at, "o_proj", [config.dim, q], grouped.output_bias);
    }

    fn latent(&mut self, at: &str, config: &Config, latent: &Latent) {
        let Latent { heads, kv_rank, nope, rope_dim, value, bias, .. } = *latent;
        let (dim, queries) = (config.dim, heads * latent.query());
        match latent.q_rank {
            None => self.linear(at, "q_proj", [queries, dim], false),
            Some(rank) => {
                self.linear(at, "q_a_proj", [rank, dim], bias);
                self.other(format!("{at}q_a_layernorm.weight"), &[rank]);
                self.linear(at, "q_b_proj", [queries, rank], false);
            }
        }
        self.linear(at, "kv_a_proj_with_mqa", [kv_rank + rope_dim, dim], bias);
        self.other(format!("{at}kv_a_layernorm.weight"), &[kv_rank]);
        self.linear(at, "kv_b_proj", [heads * (nope + value), kv_rank], false);
        self.linear(at, "o_proj", [dim, heads * value], bias);
        if let Some(indexer) = &latent.indexer {
            let (at, rank) = (format!("{at}indexer."), latent.q_rank.unwrap_or(dim));
            self.linear(&at, "wq_b", [indexer.heads * indexer.head_dim, rank], false);
            self.linear(&at, "wk", [indexer.head_dim, dim], false);
            self.linear(&at, "weights_proj", [indexer.heads, dim], false);
            ["weight", "bias"].iter().for_each(|name| self.other(format!("{at}k_norm.{name}"), &[indexer.head_dim]));
        }
    }

    fn compressed(&mut self, at: &str, config: &Config, compressed: &Compressed, layer: CompressedLayer) {
        let Compressed { heads, head_dim, q_rank, groups, output_rank, .. } = *compressed;
        self.linear(at, "wq_a", [q_rank, config.dim], false);
        self.other(format!("{at}q_norm.weight"), &[q_rank]);
        self.linear(at, "wq_b", [heads * head_dim, q_rank], false);
        self.linear(at, "wkv", [head_dim, config.dim], false);
        self.other(format!("{at}kv_norm.weight"), &[head_dim]);
        self.other(format!("{at}attn_sink"), &[heads]);
        self.linear(at, "wo_a", [groups * output_rank, heads / groups * head_dim], false);
        self.linear(at, "wo_b", [config.dim, groups * output_rank], false);
        let Some(compression) = layer.compression() else { return };
        self.compressor(at, config, compression, head_dim);
        if let CompressedLayer::Sparse(_) = layer {
            let (at, indexer) = (format!("{at}indexer."), &compressed.indexer);
            self.compressor(&at, config, compression, indexer.head_dim);
            self.linear(&at, "wq_b", [indexer.heads * indexer.head_dim, q_rank], false);
            self.linear(&at, "weights_proj", [indexer.heads, config.dim], false);
        }
    }

    fn compressor(&mut self, at: &str, config: &Config, compression: Compression, dim: usize) {
        let (at, width) = (format!("{at}compressor."), compression.width(dim));
        ["wkv", "wgate"].iter().for_each(|name| self.linear(&at, name, [width, config.dim], false));
        self.other(format!("{at}ape"), &[compression.rate, width]);
        self.other(format!("{at}norm.weight"), &[dim]);
    }

    fn hyper(&mut self, at: &str, config: &Config, rows: usize, streams: usize, scales: usize) {
        self.other(format!("{at}fn"), &[rows, streams * config.dim]);
        self.other(format!("{at}base"), &[rows]);
        self.other(format!("{at}scale"), &[scales]);
    }

    fn feed_forward(&mut self, at: &str, names: &Names, config: &Config, kind: FeedForward) {
        let gated = |width: usize| {
            [(names.gate, [width, config.dim]), (names.up, [width, config.dim]), (names.down, [config.dim, width])]
        };
        let (experts, hashed) = match (kind, &config.experts) {
            (FeedForward::Dense { width }, _) => {
                return gated(width).iter().for_each(|(name, shape)| self.linear(at, name, *shape, false));
            }
            (_, None) => return,
            (kind, Some(experts)) => (experts, kind == FeedForward::Hashed),
        };
        self.linear(at, "gate", [experts.experts, config.dim], false);
        if hashed {
            self.other(format!("{at}gate.tid2eid"), &[config.vocab, experts.top]);
        } else if experts.bias {
            self.other(format!("{at}{}", names.router_bias), &[experts.experts]);
        }
        for (name, [rows, cols]) in gated(experts.width) {
            self.add(format!("{at}experts.{name}.weight"), &[experts.experts, rows, cols], Role::Experts);
        }
        if experts.shared > 0 {
            let at = format!("{at}shared_experts.");
            gated(experts.shared).iter().for_each(|(name, shape)| self.linear(&at, name, *shape, false));
        }
    }
}
