//! Shapes of known models: the numbers of their published `config.json`.

use serde_json::{Value, json};

pub struct Preset {
    pub name: &'static str,
    dim: usize,
    layers: usize,
    vocab: usize,
    heads: usize,
    attention: Attention,
    /// Width of a dense feed-forward layer.
    width: usize,
    experts: Option<Experts>,
}

enum Attention {
    /// Qwen2: a bias on queries, keys and values.
    Qwen2 {
        kv_heads: usize,
    },
    Llama {
        kv_heads: usize,
    },
    /// DeepSeek V2 without a latent vector of queries.
    Latent {
        rank: usize,
        nope: usize,
        rope: usize,
        value: usize,
    },
}

/// Of all layers but the first.
struct Experts {
    experts: usize,
    top: usize,
    shared: usize,
    width: usize,
}

pub static PRESETS: [Preset; 4] = [
    // Nobody's shape: shows in a second that everything works.
    Preset {
        name: "tiny",
        dim: 128,
        layers: 3,
        vocab: 512,
        heads: 4,
        attention: Attention::Latent { rank: 64, nope: 32, rope: 32, value: 32 },
        width: 256,
        experts: Some(Experts { experts: 8, top: 2, shared: 1, width: 64 }),
    },
    Preset {
        name: "r1-distill-qwen-1.5b",
        dim: 1536,
        layers: 28,
        vocab: 151_936,
        heads: 12,
        attention: Attention::Qwen2 { kv_heads: 2 },
        width: 8960,
        experts: None,
    },
    Preset {
        name: "r1-distill-llama-8b",
        dim: 4096,
        layers: 32,
        vocab: 128_256,
        heads: 32,
        attention: Attention::Llama { kv_heads: 8 },
        width: 14_336,
        experts: None,
    },
    Preset {
        name: "deepseek-v2-lite",
        dim: 2048,
        layers: 27,
        vocab: 102_400,
        heads: 16,
        attention: Attention::Latent { rank: 512, nope: 128, rope: 64, value: 128 },
        width: 10_944,
        experts: Some(Experts { experts: 64, top: 6, shared: 2, width: 1408 }),
    },
];

/// A tensor to be written.
pub struct TensorShape {
    pub name: String,
    pub shape: Vec<usize>,
    /// Largest number; none where all are 1.
    pub spread: Option<f32>,
}

impl TensorShape {
    /// Rows of unit variance stay of unit variance through it.
    fn matrix(name: String, rows: usize, cols: usize) -> Self {
        Self { name, shape: vec![rows, cols], spread: Some((3.0 / cols as f32).sqrt()) }
    }

    fn norm(name: String, n: usize) -> Self {
        Self { name, shape: vec![n], spread: None }
    }

    fn bias(name: String, n: usize) -> Self {
        Self { name, shape: vec![n], spread: Some(0.1) }
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// In bf16.
    pub fn bytes(&self) -> usize {
        2 * self.elements()
    }

    /// The share of it that one token meets, where `top` of `experts` are picked.
    fn met(&self, experts: Option<&Experts>) -> f64 {
        match experts {
            Some(experts) if self.name.contains(".experts.") => experts.top as f64 / experts.experts as f64,
            // Of the embedding a row is read, which counts as nothing.
            _ if self.name == "model.embed_tokens.weight" => 0.0,
            _ => 1.0,
        }
    }
}

impl Preset {
    /// One line for programs: parameters, parameters that one token meets, f32 numbers kept a token.
    pub fn summary(&self) -> Value {
        let tensors = self.tensors();
        let met = |tensor: &TensorShape| tensor.elements() as f64 * tensor.met(self.experts.as_ref());
        let kept = match self.attention {
            Attention::Qwen2 { kv_heads } | Attention::Llama { kv_heads } => 2 * kv_heads * self.head_dim(),
            Attention::Latent { rank, rope, .. } => rank + rope,
        };
        json!({
            "parameters": tensors.iter().map(TensorShape::elements).sum::<usize>(),
            "met": tensors.iter().map(met).sum::<f64>(),
            "kv_bytes": 4 * kept * self.layers,
        })
    }

    fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// `config.json`.
    pub fn config(&self) -> Value {
        let mut config = json!({
            "hidden_size": self.dim,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.width,
            "vocab_size": self.vocab,
            "hidden_act": "silu",
            "tie_word_embeddings": false,
            "torch_dtype": "bfloat16",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "max_position_embeddings": 131_072,
        });
        let more = match self.attention {
            Attention::Qwen2 { kv_heads } => json!({
                "model_type": "qwen2",
                "num_key_value_heads": kv_heads,
                "use_sliding_window": false,
            }),
            Attention::Llama { kv_heads } => json!({
                "model_type": "llama",
                "num_key_value_heads": kv_heads,
                "rms_norm_eps": 1e-5,
                "rope_theta": 500_000.0,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            }),
            Attention::Latent { rank, nope, rope, value } => json!({
                "model_type": "deepseek_v2",
                "max_position_embeddings": 163_840,
                "q_lora_rank": null,
                "kv_lora_rank": rank,
                "qk_nope_head_dim": nope,
                "qk_rope_head_dim": rope,
                "v_head_dim": value,
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 40,
                    "original_max_position_embeddings": 4096,
                    "beta_fast": 32,
                    "beta_slow": 1,
                    "mscale": 0.707,
                    "mscale_all_dim": 0.707,
                },
            }),
        };
        let experts = self.experts.as_ref().map(|experts| {
            json!({
                "n_routed_experts": experts.experts,
                "num_experts_per_tok": experts.top,
                "n_shared_experts": experts.shared,
                "moe_intermediate_size": experts.width,
                "first_k_dense_replace": 1,
                "moe_layer_freq": 1,
                "scoring_func": "softmax",
                "topk_method": "greedy",
                "norm_topk_prob": false,
                "routed_scaling_factor": 1.0,
            })
        });
        for part in [Some(more), experts].into_iter().flatten() {
            if let (Some(config), Value::Object(part)) = (config.as_object_mut(), part) {
                config.extend(part);
            }
        }
        config
    }

    /// All tensors, by Hugging Face's names.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let mut tensors = vec![
            TensorShape::matrix("model.embed_tokens.weight".into(), self.vocab, self.dim),
            TensorShape::norm("model.norm.weight".into(), self.dim),
            TensorShape::matrix("lm_head.weight".into(), self.vocab, self.dim),
        ];
        for layer in 0..self.layers {
            let at = format!("model.layers.{layer}.");
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                tensors.push(TensorShape::norm(format!("{at}{norm}.weight"), self.dim));
            }
            self.attention(&format!("{at}self_attn."), &mut tensors);
            self.feed_forward(&format!("{at}mlp."), layer, &mut tensors);
        }
        tensors
    }

    fn attention(&self, at: &str, tensors: &mut Vec<TensorShape>) {
        let (dim, heads) = (self.dim, self.heads);
        let mut matrix = |name: &str, rows, cols| {
            tensors.push(TensorShape::matrix(format!("{at}{name}.weight"), rows, cols));
        };
        match self.attention {
            Attention::Qwen2 { kv_heads } | Attention::Llama { kv_heads } => {
                let parts =
                    [("q_proj", dim), ("k_proj", kv_heads * self.head_dim()), ("v_proj", kv_heads * self.head_dim())];
                parts.iter().for_each(|(name, rows)| matrix(name, *rows, dim));
                matrix("o_proj", dim, dim);
                if let Attention::Qwen2 { .. } = self.attention {
                    tensors.extend(parts.map(|(name, rows)| TensorShape::bias(format!("{at}{name}.bias"), rows)));
                }
            }
            Attention::Latent { rank, nope, rope, value } => {
                matrix("q_proj", heads * (nope + rope), dim);
                matrix("kv_a_proj_with_mqa", rank + rope, dim);
                matrix("kv_b_proj", heads * (nope + value), rank);
                matrix("o_proj", dim, heads * value);
                tensors.push(TensorShape::norm(format!("{at}kv_a_layernorm.weight"), rank));
            }
        }
    }

    fn feed_forward(&self, at: &str, layer: usize, tensors: &mut Vec<TensorShape>) {
        let mut mlp = |at: &str, width: usize| {
            for name in ["gate_proj", "up_proj"] {
                tensors.push(TensorShape::matrix(format!("{at}{name}.weight"), width, self.dim));
            }
            tensors.push(TensorShape::matrix(format!("{at}down_proj.weight"), self.dim, width));
        };
        match &self.experts {
            Some(experts) if layer > 0 => {
                (0..experts.experts).for_each(|i| mlp(&format!("{at}experts.{i}."), experts.width));
                mlp(&format!("{at}shared_experts."), experts.width * experts.shared);
                tensors.push(TensorShape::matrix(format!("{at}gate.weight"), experts.experts, self.dim));
            }
            _ => mlp(at, self.width),
        }
    }
}
