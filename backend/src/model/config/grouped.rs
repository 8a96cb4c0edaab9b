//! Grouped-query attention (Ainslie et al. 2023): Llama and Qwen2.

use littoral_kernels::Pairing;

use super::{
    super::{cache::Plane, error::Problem},
    keys::Keys,
    rope::RopeConfig,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Grouped {
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Queries, keys and values have a bias.
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub rope: RopeConfig,
    pub pairing: Pairing,
    /// Tokens that each layer sees, where it does not see all.
    pub windows: Vec<Option<usize>>,
}

impl Grouped {
    pub(super) fn read(
        keys: &Keys,
        architecture: &str,
        layers: usize,
        dim: usize,
        heads: usize,
    ) -> Result<Self, Problem> {
        let kv_heads = keys.size_or("num_key_value_heads", heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(keys.wrong("num_key_value_heads", kv_heads, format!("a divisor of the {heads} heads")));
        }
        if keys.get("head_dim").is_none() && !dim.is_multiple_of(heads) {
            return Err(keys.wrong("num_attention_heads", heads, format!("a divisor of hidden_size, {dim}")));
        }
        let head_dim = keys.size_or("head_dim", dim / heads)?;
        let qwen = architecture == "qwen2";
        let bias = keys.flag_or("attention_bias", false)?;
        // Qwen2 always has a bias on queries, keys and values, and never one on the output.
        let (qkv_bias, output_bias) = if qwen { (true, false) } else { (bias, bias) };
        let interleave = keys.flag_or("rope_interleave", false)?;
        Ok(Self {
            heads,
            kv_heads,
            head_dim,
            qkv_bias,
            output_bias,
            rope: RopeConfig::read(keys, head_dim)?,
            pairing: if interleave { Pairing::Interleaved } else { Pairing::Halves },
            windows: if qwen { windows(keys, layers)? } else { vec![None; layers] },
        })
    }

    /// Rows of the query, key and value projections together.
    pub fn qkv_rows(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    pub(super) fn planes(&self) -> Vec<Plane> {
        let width = self.kv_heads * self.head_dim;
        vec![Plane::tokens(width), Plane::tokens(width)]
    }
}

/// Which layers of Qwen2 see a window: as `layer_types` says, or all from `max_window_layers` on.
fn windows(keys: &Keys, layers: usize) -> Result<Vec<Option<usize>>, Problem> {
    let sliding = keys.flag_or("use_sliding_window", false)?;
    let window = if sliding { Some(keys.size_or("sliding_window", 4096)?) } else { None };
    let Some(types) = keys.words("layer_types", layers)? else {
        let full = keys.count_or("max_window_layers", 28)?;
        return Ok((0..layers).map(|layer| window.filter(|_| layer >= full)).collect());
    };
    let one = |kind: &&str| match *kind {
        "full_attention" => Ok(None),
        "sliding_attention" => Ok(window),
        other => Err(keys.wrong(
            "layer_types",
            format!("'{other}' for a layer, which is not run here"),
            "full_attention or sliding_attention",
        )),
    };
    types.iter().map(one).collect()
}
