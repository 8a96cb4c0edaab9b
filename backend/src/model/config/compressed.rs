//! DeepSeek V4: attention over a window and over compressed summaries, on several residual streams.

use serde_json::Value;

use super::{
    super::{BLOCK_TOKENS, cache::Plane, error::Problem},
    FeedForward,
    keys::Keys,
    latent::IndexerConfig,
    rope::{RopeConfig, Scaling},
};

/// Context of a model whose configuration does not say.
pub const CONTEXT: usize = 1_048_576;

#[derive(Debug, Clone, PartialEq)]
pub struct Compressed {
    pub heads: usize,
    /// Elements of a head, of its key, and of its value, which is the key.
    pub head_dim: usize,
    /// The last elements of a head are rotated.
    pub rope_dim: usize,
    pub q_rank: usize,
    /// The output is projected group by group, each to `output_rank` elements first.
    pub groups: usize,
    pub output_rank: usize,
    /// Tokens seen as they are, the newest included.
    pub window: usize,
    pub indexer: IndexerConfig,
    pub layers: Vec<CompressedLayer>,
    /// Of layers that only see the window.
    pub rope: RopeConfig,
    /// Of layers with summaries.
    pub compress_rope: RopeConfig,
    pub hyper: HyperConfig,
}

/// What a layer sees beyond its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressedLayer {
    Sliding,
    /// Summaries of overlapping windows, of which an indexer picks.
    Sparse(Compression),
    /// Summaries of windows that follow each other, all of them.
    Heavy(Compression),
}

/// A summary stands for `rate` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    pub rate: usize,
    /// A summary also looks at the tokens of the one before.
    pub overlap: bool,
}

/// Several residual streams in place of one (hyper-connections, Zhu et al. 2024).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HyperConfig {
    pub streams: usize,
    pub sinkhorn_iterations: usize,
    pub eps: f32,
}

impl Compression {
    /// Tokens whose projections one summary is made of.
    pub fn span(self) -> usize {
        if self.overlap { 2 * self.rate } else { self.rate }
    }

    /// Elements of a token's projection, for summaries of `dim` elements.
    pub fn width(self, dim: usize) -> usize {
        if self.overlap { 2 * dim } else { dim }
    }
}

impl CompressedLayer {
    pub fn compression(self) -> Option<Compression> {
        match self {
            Self::Sliding => None,
            Self::Sparse(compression) | Self::Heavy(compression) => Some(compression),
        }
    }
}

impl Compressed {
    pub(super) fn read(keys: &Keys, layers: usize, heads: usize) -> Result<(Self, Vec<FeedForward>), Problem> {
        if keys.get("num_key_value_heads").is_some_and(|n| n.as_u64() != Some(1)) {
            return Err(keys.wrong("num_key_value_heads", "more than 1", "1: all heads share one key"));
        }
        let head_dim = keys.size_or("head_dim", 512)?;
        let partial = match keys.number_or_none("partial_rotary_factor")? {
            Some(partial) => partial,
            None => keys.size_or("qk_rope_head_dim", 64)? as f64 / head_dim as f64,
        };
        keys.get("qk_rope_head_dim");
        let rope_dim = (head_dim as f64 * partial) as usize;
        if !(2..=head_dim).contains(&rope_dim) {
            return Err(keys.wrong("partial_rotary_factor", partial, "a share of the head that can be rotated"));
        }
        let (rope, compress_rope) = ropes(keys, rope_dim)?;
        let groups = keys.size_or("o_groups", 8)?;
        if !heads.is_multiple_of(groups) {
            return Err(keys.wrong("o_groups", groups, format!("a divisor of the {heads} heads")));
        }
        let compressed = Self {
            heads,
            head_dim,
            rope_dim,
            q_rank: keys.size_or("q_lora_rank", 1024)?,
            groups,
            output_rank: keys.size_or("o_lora_rank", 1024)?,
            window: keys.size_or("sliding_window", 128)?,
            indexer: IndexerConfig::read(keys, rope_dim, 512)?,
            layers: kinds(keys, layers)?,
            rope,
            compress_rope,
            hyper: HyperConfig {
                streams: keys.size_or("hc_mult", 4)?,
                sinkhorn_iterations: keys.size_or("hc_sinkhorn_iters", 20)?,
                eps: keys.positive_or("hc_eps", 1e-6)? as f32,
            },
        };
        Ok((compressed, feed_forward(keys, layers)?))
    }

    /// What a layer keeps: keys of tokens; of layers with summaries also the projections that the next one is made of,
    /// and the summaries; the indexer's likewise.
    pub(super) fn planes(&self, layer: usize) -> Vec<Plane> {
        let mut planes = vec![Plane::tokens(self.head_dim)];
        let kind = self.layers[layer];
        let mut add = |compression: Compression, dim: usize| {
            planes.push(Plane { rows: compression.span().min(BLOCK_TOKENS), width: 2 * compression.width(dim) });
            planes.push(Plane { rows: (BLOCK_TOKENS / compression.rate).max(1), width: dim });
        };
        if let Some(compression) = kind.compression() {
            add(compression, self.head_dim);
            if let CompressedLayer::Sparse(_) = kind {
                add(compression, self.indexer.head_dim);
            }
        }
        planes
    }
}

/// The layers' kinds: `layer_types`, or the older `compress_ratios`, or two heavy ones and then sparse after heavy.
fn kinds(keys: &Keys, layers: usize) -> Result<Vec<CompressedLayer>, Problem> {
    const SPARSE: &str = "compressed_sparse_attention";
    const HEAVY: &str = "heavily_compressed_attention";
    let rates = keys.object("compress_rates")?;
    let rate = |name: &str, older: &str, default: usize| -> Result<usize, Problem> {
        let rate = match &rates {
            Some(rates) if rates.has(name) => rates.size(name)?,
            _ => keys.size_or(older, default)?,
        };
        // A summary must end where a block of the cache ends, or lie within one.
        if rate.is_multiple_of(BLOCK_TOKENS) || BLOCK_TOKENS.is_multiple_of(rate) {
            Ok(rate)
        } else {
            Err(keys.wrong("compress_rates", rate, format!("a divisor or a multiple of {BLOCK_TOKENS}")))
        }
    };
    let sparse = Compression { rate: rate(SPARSE, "compress_rate_csa", 4)?, overlap: true };
    if sparse.span() > BLOCK_TOKENS {
        return Err(keys.wrong("compress_rates", sparse.rate, format!("at most {}", BLOCK_TOKENS / 2)));
    }
    let heavy = Compression { rate: rate(HEAVY, "compress_rate_hca", 128)?, overlap: false };
    let (sparse, heavy) = (CompressedLayer::Sparse(sparse), CompressedLayer::Heavy(heavy));
    if let Some(types) = keys.words("layer_types", layers)? {
        let one = |kind: &&str| match *kind {
            "sliding_attention" => Ok(CompressedLayer::Sliding),
            SPARSE => Ok(sparse),
            HEAVY => Ok(heavy),
            other => {
                let known = format!("sliding_attention, {SPARSE} or {HEAVY}");
                Err(keys.wrong("layer_types", format!("'{other}' for a layer, which is not run here"), known))
            }
        };
        keys.get("compress_ratios");
        return types.iter().map(one).collect();
    }
    let Some(ratios) = keys.get("compress_ratios") else {
        return Ok((0..layers).map(|i| if i < 2 || i % 2 == 0 { heavy } else { sparse }).collect());
    };
    let wrong = || keys.wrong("compress_ratios", ratios, format!("{layers} numbers, each 0, 4 or 128"));
    let list = ratios.as_array().filter(|list| list.len() >= layers).ok_or_else(wrong)?;
    // The numbers name kinds; how many tokens a summary stands for is `compress_rates`.
    let one = |ratio: &Value| match ratio.as_u64() {
        Some(0) => Ok(CompressedLayer::Sliding),
        Some(4) => Ok(sparse),
        Some(128) => Ok(heavy),
        _ => Err(wrong()),
    };
    list[..layers].iter().map(one).collect()
}

fn feed_forward(keys: &Keys, layers: usize) -> Result<Vec<FeedForward>, Problem> {
    let hashed = keys.count_or("num_hash_layers", 3)?;
    let Some(types) = keys.words("mlp_layer_types", layers)? else {
        return Ok((0..layers).map(|i| if i < hashed { FeedForward::Hashed } else { FeedForward::Routed }).collect());
    };
    let one = |kind: &&str| match *kind {
        "hash_moe" => Ok(FeedForward::Hashed),
        "moe" => Ok(FeedForward::Routed),
        other => Err(keys.wrong("mlp_layer_types", format!("'{other}' for a layer"), "hash_moe or moe")),
    };
    types.iter().map(one).collect()
}

/// The rotary embeddings of sliding layers and of layers with summaries.
fn ropes(keys: &Keys, width: usize) -> Result<(RopeConfig, RopeConfig), Problem> {
    let theta = keys.positive_or("rope_theta", 10_000.0)?;
    let compress_theta = keys.positive_or("compress_rope_theta", 160_000.0)?;
    let inner = match keys.object("rope_scaling")? {
        None => keys.object("rope_parameters")?,
        some => some,
    };
    let rope = |theta, scaling| RopeConfig { width, theta, scaling };
    let Some(inner) = inner else {
        return Ok((rope(theta, Scaling::None), rope(compress_theta, Scaling::None)));
    };
    if let (Some(main), Some(compress)) = (inner.object("main")?, inner.object("compress")?) {
        let one = |set: &Keys, default: f64| -> Result<RopeConfig, Problem> {
            Ok(rope(set.positive_or("rope_theta", default)?, Scaling::read(set, keys, None)?))
        };
        return Ok((one(&main, theta)?, one(&compress, compress_theta)?));
    }
    let theta = inner.positive_or("rope_theta", theta)?;
    Ok((rope(theta, Scaling::None), rope(compress_theta, Scaling::read(&inner, keys, Some(1.0))?)))
}
