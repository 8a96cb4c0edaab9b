//! A GGUF file's metadata under the keys of `config.json`.
//!
//! One reader of configurations serves both kinds of files. What llama.cpp keeps in another form is said in keys of its own:
//! `rope_interleave` (the rows of q and k lie so that rotary pairs are neighbours), and the tensor `rope_freqs.weight`
//! (divisors of the rotary frequencies, in place of Llama 3.1's `rope_scaling`).

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::{Gguf, GgufError, TensorInfo};

const EMBEDDING: &str = "token_embd.weight";
/// No dimension or count of a real model is larger.
const MOST: u64 = 1 << 24;
/// `deepseek2.expert_gating_func`: the router's scores go through a sigmoid. (1, or no key: softmax.)
const SIGMOID: u64 = 2;

/// A model whose older files leave groups of experts out.
struct Groups {
    experts: u64,
    sigmoid: bool,
    groups: u64,
    used: u64,
}

/// V2, and V3 with R1.
const KNOWN_GROUPS: [Groups; 2] = [
    Groups { experts: 160, sigmoid: false, groups: 8, used: 3 },
    Groups { experts: 256, sigmoid: true, groups: 8, used: 4 },
];

/// The configuration of a model of the architectures `llama`, `qwen2` and `deepseek2`, from its only or all of its parts.
pub fn config(parts: &[Gguf]) -> Result<Map<String, Value>, GgufError> {
    let [file, ..] = parts else { return Err(GgufError::Missing { key: "general.architecture".into() }) };
    let architecture = file.str("general.architecture")?;
    let keys = Keys { file, parts, prefix: architecture };
    let mut out = keys.common()?;
    let model_type = match architecture {
        "llama" => {
            keys.dense(&mut out)?;
            // llama.cpp permutes q and k of this architecture alone.
            out.insert("rope_interleave".into(), json!(true));
            out.insert("attention_bias".into(), json!(keys.has_tensor("blk.0.attn_q.bias")));
            out.insert("mlp_bias".into(), json!(keys.has_tensor("blk.0.ffn_up.bias")));
            "llama"
        }
        "qwen2" => {
            keys.dense(&mut out)?;
            "qwen2"
        }
        "deepseek2" => keys.deepseek(&mut out)?,
        _ => {
            return Err(keys.wrong_at(
                "general.architecture",
                format!("'{architecture}'"),
                "llama, qwen2 or deepseek2: no other architecture is read from GGUF files",
            ));
        }
    };
    out.insert("model_type".into(), json!(model_type));
    out.insert("rope_scaling".into(), keys.rope_scaling(architecture == "deepseek2")?);
    Ok(out)
}

/// The metadata of one architecture.
struct Keys<'a> {
    /// The file with the metadata.
    file: &'a Gguf,
    parts: &'a [Gguf],
    prefix: &'a str,
}

impl Keys<'_> {
    /// What every architecture has.
    fn common(&self) -> Result<Map<String, Value>, GgufError> {
        let embedding = self.tensor(EMBEDDING).ok_or_else(|| GgufError::MissingTensor { name: EMBEDDING.into() })?;
        let vocab = match embedding.dims[..] {
            [_, vocab] if vocab <= MOST => vocab,
            _ => {
                let what = format!("dimensions {:?}; expected the width and the size of a vocabulary", embedding.dims);
                return Err(GgufError::Tensor { name: EMBEDDING.into(), what });
            }
        };
        let mut out = Map::new();
        let mut put = |key: &str, value: Value| out.insert(key.into(), value);
        put("vocab_size", json!(vocab));
        put("hidden_size", json!(self.size("embedding_length")?));
        put("num_hidden_layers", json!(self.size("block_count")?));
        put("num_attention_heads", json!(self.size("attention.head_count")?));
        put("max_position_embeddings", json!(self.size("context_length")?));
        put("rms_norm_eps", json!(self.positive("attention.layer_norm_rms_epsilon")?));
        put("rope_theta", json!(self.positive_or("rope.freq_base", 10_000.0)?));
        put("tie_word_embeddings", json!(!self.has_tensor("output.weight")));
        put("hidden_act", json!("silu"));
        Ok(out)
    }

    /// Plain attention and feed-forward layers.
    fn dense(&self, out: &mut Map<String, Value>) -> Result<(), GgufError> {
        if self.count("expert_count")? > 0 {
            return Err(self.wrong(
                "expert_count",
                self.count("expert_count")?,
                "0: experts of this architecture are not read",
            ));
        }
        let (dim, heads) = (self.size("embedding_length")?, self.size("attention.head_count")?);
        let head_dim = self.size_or("attention.key_length", dim / heads)?;
        for key in ["attention.value_length", "rope.dimension_count"] {
            let found = self.size_or(key, head_dim)?;
            if found != head_dim {
                return Err(self.wrong(key, found, &format!("the head's {head_dim}")));
            }
        }
        out.insert("head_dim".into(), json!(head_dim));
        out.insert("num_key_value_heads".into(), json!(self.size_or("attention.head_count_kv", heads)?));
        out.insert("intermediate_size".into(), json!(self.size("feed_forward_length")?));
        Ok(())
    }

    /// Latent attention and experts; gives the model type.
    fn deepseek(&self, out: &mut Map<String, Value>) -> Result<&'static str, GgufError> {
        let rope = self.size("rope.dimension_count")?;
        // Files made for absorbed attention say the heads' real lengths in `*_mla`, and the latent's in the plain keys.
        let key = self.size_either("attention.key_length_mla", "attention.key_length")?;
        let value = self.size_either("attention.value_length_mla", "attention.value_length")?;
        let nope = key.checked_sub(rope).filter(|n| *n > 0);
        let nope = nope
            .ok_or_else(|| self.wrong("attention.key_length", key, &format!("more than the {rope} rotary elements")))?;
        let sigmoid = match self.count("expert_gating_func")? {
            0 | 1 => false,
            SIGMOID => true,
            other => return Err(self.wrong("expert_gating_func", other, "1 (softmax) or 2 (sigmoid)")),
        };
        let experts = self.size("expert_count")?;
        let (groups, used_groups) = match self.get("expert_group_count") {
            Some(_) => (self.size("expert_group_count")?, self.size("expert_group_used_count")?),
            None => {
                let known = KNOWN_GROUPS.iter().find(|known| (known.experts, known.sigmoid) == (experts, sigmoid));
                known.map_or((1, 1), |known| (known.groups, known.used))
            }
        };
        let norm = self.get("expert_weights_norm").and_then(super::Value::as_bool).unwrap_or(false);
        let q_lora_rank = match self.get("attention.q_lora_rank") {
            Some(_) => json!(self.size("attention.q_lora_rank")?),
            None => Value::Null,
        };
        let topk_method = match (sigmoid, groups) {
            (true, _) => "noaux_tc",
            (false, 1) => "greedy",
            (false, _) => "group_limited_greedy",
        };
        let Value::Object(more) = json!({
            "num_key_value_heads": self.size("attention.head_count")?,
            "q_lora_rank": q_lora_rank,
            "kv_lora_rank": self.size("attention.kv_lora_rank")?,
            "qk_nope_head_dim": nope,
            "qk_rope_head_dim": rope,
            "v_head_dim": value,
            "intermediate_size": self.size("feed_forward_length")?,
            "moe_intermediate_size": self.size("expert_feed_forward_length")?,
            "first_k_dense_replace": self.count("leading_dense_block_count")?,
            "n_routed_experts": experts,
            "num_experts_per_tok": self.size("expert_used_count")?,
            "n_shared_experts": self.count("expert_shared_count")?,
            "routed_scaling_factor": self.positive_or("expert_weights_scale", 1.0)?,
            "norm_topk_prob": norm,
            "n_group": groups,
            "topk_group": used_groups,
            "topk_method": topk_method,
            "scoring_func": if sigmoid { "sigmoid" } else { "softmax" },
            "attention_bias": false,
        }) else {
            return Ok("deepseek_v2");
        };
        out.extend(more);
        Ok(if sigmoid { "deepseek_v3" } else { "deepseek_v2" })
    }

    /// How the rotary embedding is stretched; null: not at all, or by the tensor `rope_freqs.weight`.
    fn rope_scaling(&self, latent: bool) -> Result<Value, GgufError> {
        let kind = self.get("rope.scaling.type").map(|v| v.as_str().unwrap_or_default().to_owned());
        let yarn = match kind.as_deref() {
            // The oldest files say a linear factor and no type.
            None if self.get("rope.scale_linear").is_some() => {
                return Ok(json!({ "rope_type": "linear", "factor": self.positive("rope.scale_linear")? }));
            }
            None | Some("none") => return Ok(Value::Null),
            Some("linear") => {
                return Ok(json!({ "rope_type": "linear", "factor": self.positive("rope.scaling.factor")? }));
            }
            Some("yarn") => json!({ "rope_type": "yarn", "factor": self.positive("rope.scaling.factor")? }),
            Some(other) => return Err(self.wrong("rope.scaling.type", format!("'{other}'"), "none, linear or yarn")),
        };
        let Value::Object(mut yarn) = yarn else { return Ok(Value::Null) };
        let original = self.size_either("rope.scaling.original_context_length", "context_length")?;
        yarn.insert("original_max_position_embeddings".into(), json!(original));
        let named = [
            ("rope.scaling.yarn_attn_factor", "attention_factor"),
            ("rope.scaling.yarn_beta_fast", "beta_fast"),
            ("rope.scaling.yarn_beta_slow", "beta_slow"),
        ];
        for (ours, theirs) in named {
            if self.get(ours).is_some() {
                yarn.insert(theirs.into(), json!(self.positive(ours)?));
            }
        }
        let extra = self.positive_or("rope.scaling.attn_factor", 1.0)?;
        if (extra - 1.0).abs() > 1e-6 {
            return Err(self.wrong("rope.scaling.attn_factor", extra, "1, or no such key"));
        }
        if latent && self.get("rope.scaling.yarn_log_multiplier").is_some() {
            // A tenth of mscale_all_dim; mscale, which is not kept, equals it in every published model.
            let multiplier = self.positive("rope.scaling.yarn_log_multiplier")?;
            let mscale = (multiplier * 1e7).round() / 1e6;
            yarn.insert("mscale".into(), json!(mscale));
            yarn.insert("mscale_all_dim".into(), json!(mscale));
        }
        Ok(Value::Object(yarn))
    }

    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.parts.iter().flat_map(Gguf::tensors).find(|t| t.name == name)
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.tensor(name).is_some()
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn get(&self, key: &str) -> Option<&super::Value> {
        self.file.get(&self.name(key))
    }

    fn wrong(&self, key: &str, found: impl ToString, expected: &str) -> GgufError {
        self.wrong_at(&self.name(key), found, expected)
    }

    fn wrong_at(&self, key: &str, found: impl ToString, expected: &str) -> GgufError {
        GgufError::Value { key: key.into(), found: found.to_string(), expected: expected.into() }
    }

    /// A number of at least one that must be there.
    fn size(&self, key: &str) -> Result<u64, GgufError> {
        let n = self.file.u64(&self.name(key))?;
        if (1..=MOST).contains(&n) { Ok(n) } else { Err(self.wrong(key, n, &format!("1 to {MOST}"))) }
    }

    fn size_or(&self, key: &str, default: u64) -> Result<u64, GgufError> {
        if self.get(key).is_none() { Ok(default) } else { self.size(key) }
    }

    fn size_either(&self, key: &str, otherwise: &str) -> Result<u64, GgufError> {
        self.size(if self.get(key).is_some() { key } else { otherwise })
    }

    /// A number that may be 0, which it is when it is not there.
    fn count(&self, key: &str) -> Result<u64, GgufError> {
        if self.get(key).is_none() {
            return Ok(0);
        }
        let n = self.file.u64(&self.name(key))?;
        if n <= MOST { Ok(n) } else { Err(self.wrong(key, n, &format!("{MOST} at most"))) }
    }

    fn positive(&self, key: &str) -> Result<f64, GgufError> {
        let x = self.file.f64(&self.name(key))?;
        if x.is_finite() && x > 0.0 { Ok(decimal(x)) } else { Err(self.wrong(key, x, "a positive number")) }
    }

    fn positive_or(&self, key: &str, default: f64) -> Result<f64, GgufError> {
        if self.get(key).is_none() { Ok(default) } else { self.positive(key) }
    }
}

/// The decimal number that an f32 was made from: 0.1, not 0.10000000149.
fn decimal(x: f64) -> f64 {
    let narrow = x as f32;
    if f64::from(narrow) == x { narrow.to_string().parse().unwrap_or(x) } else { x }
}
