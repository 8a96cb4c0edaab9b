//! The shape of a transformer, read from a GGUF file's metadata.

use crate::weights::gguf::{Gguf, GgufError, Value};

use super::{BLOCK_TOKENS, EMBEDDING, F32, error::Problem, rope::Scaling};

/// No dimension or count of a real model is larger.
const MOST: u64 = 1 << 24;

/// Everything that tells one transformer from another. Lengths are in elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub architecture: String,
    /// Longest sequence, tokens.
    pub context_length: usize,
    /// Width of the residual stream.
    pub dim: usize,
    pub layers: usize,
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn_dim: usize,
    pub vocab: usize,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    pub rope_theta: f64,
    pub rope_scaling: Scaling,
}

impl Config {
    /// Reads the configuration and checks that it makes sense.
    pub(crate) fn of(file: &Gguf) -> Result<Self, Problem> {
        let architecture = file.str("general.architecture")?.to_owned();
        if architecture != "llama" {
            return Err(Problem::Unsupported(format!("the architecture '{architecture}' is not run here; 'llama' is")));
        }
        let keys = Keys { file, prefix: &architecture };
        if keys.get("expert_count").and_then(Value::as_u64).is_some_and(|n| n > 0) {
            return Err(Problem::Unsupported("a mixture of experts is not run here; dense llama models are".into()));
        }
        let dim = keys.size("embedding_length")?;
        let heads = keys.size("attention.head_count")?;
        let kv_heads = keys.size_or("attention.head_count_kv", heads)?;
        let head_dim = keys.size_or("attention.key_length", dim / heads)?;
        if heads % kv_heads != 0 {
            return Err(keys.wrong("attention.head_count_kv", kv_heads, format!("a divisor of the {heads} heads")));
        }
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(keys.wrong("attention.key_length", head_dim, "an even number".into()));
        }
        for key in ["attention.value_length", "rope.dimension_count"] {
            let found = keys.size_or(key, head_dim)?;
            if found != head_dim {
                return Err(keys.wrong(key, found, format!("the head's {head_dim}")));
            }
        }
        let embedding = file
            .tensors()
            .iter()
            .find(|t| t.name == EMBEDDING)
            .ok_or_else(|| GgufError::MissingTensor { name: EMBEDDING.into() })?;
        let vocab = embedding.dims.get(1).copied().filter(|n| *n <= MOST).unwrap_or(0) as usize;
        Ok(Self {
            context_length: keys.size("context_length")?,
            layers: keys.size("block_count")?,
            ffn_dim: keys.size("feed_forward_length")?,
            norm_eps: keys.positive("attention.layer_norm_rms_epsilon", None)? as f32,
            rope_theta: keys.positive("rope.freq_base", Some(10_000.0))?,
            rope_scaling: scaling(&keys)?,
            architecture,
            dim,
            heads,
            kv_heads,
            head_dim,
            vocab,
        })
    }

    /// Elements of one token's keys (or values) in one layer.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Bytes of keys and values of one token, over all layers.
    pub fn kv_bytes_per_token(&self) -> u64 {
        self.layers as u64 * 2 * self.kv_dim() as u64 * F32
    }

    /// Bytes of one block of [`BLOCK_TOKENS`] tokens, over all layers.
    pub fn kv_bytes_per_block(&self) -> u64 {
        self.kv_bytes_per_token() * BLOCK_TOKENS as u64
    }
}

/// How the file stretches the rotary embedding beyond the length it was trained on.
fn scaling(keys: &Keys) -> Result<Scaling, Problem> {
    match keys.get("rope.scaling.type").and_then(Value::as_str) {
        None | Some("none") => Ok(Scaling::None),
        Some("linear") => Ok(Scaling::Linear { factor: keys.positive("rope.scaling.factor", None)? }),
        Some(other) => Err(Problem::Unsupported(format!(
            "the rotary scaling '{other}' is not run here; none, linear and per-frequency factors are"
        ))),
    }
}

/// The keys of one architecture.
struct Keys<'a> {
    file: &'a Gguf,
    prefix: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.file.get(&self.name(key))
    }

    fn wrong(&self, key: &str, found: impl ToString, expected: String) -> Problem {
        GgufError::Value { key: self.name(key), found: found.to_string(), expected }.into()
    }

    fn size(&self, key: &str) -> Result<usize, Problem> {
        let n = self.file.u64(&self.name(key))?;
        if !(1..=MOST).contains(&n) {
            return Err(self.wrong(key, n, format!("1 to {MOST}")));
        }
        Ok(n as usize)
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize, Problem> {
        if self.get(key).is_none() { Ok(default) } else { self.size(key) }
    }

    fn positive(&self, key: &str, default: Option<f64>) -> Result<f64, Problem> {
        if let (Some(default), None) = (default, self.get(key)) {
            return Ok(default);
        }
        let x = self.file.f64(&self.name(key))?;
        if !(x.is_finite() && x > 0.0) {
            return Err(self.wrong(key, x, "a positive number".into()));
        }
        Ok(x)
    }
}
