//! Metadata of every architecture.

use super::*;
use crate::weights::gguf::tests::Writer;

/// Metadata of `architecture`, as numbers (whole ones with no decimal point) and strings, and the tensors named.
fn config_of(architecture: &str, metadata: &[(&str, &str)], tensors: &[&str]) -> Result<Map<String, Value>, String> {
    let mut writer = Writer::new(tensors.len() as u64, metadata.len() as u64 + 1);
    writer = writer.string("general.architecture").u32(8).string(architecture);
    for (key, value) in metadata {
        writer = writer.string(&format!("{architecture}.{key}"));
        writer = match (value.parse::<u32>(), value.parse::<f32>(), value.parse::<bool>()) {
            (Ok(n), ..) => writer.u32(4).u32(n),
            (_, Ok(x), _) => writer.u32(6).raw(&x.to_le_bytes()),
            (.., Ok(b)) => writer.u32(7).raw(&[b.into()]),
            _ => writer.u32(8).string(value),
        };
    }
    for (i, name) in tensors.iter().enumerate() {
        writer = writer.tensor(name, &[4, 8], 0, 128 * i as u64);
    }
    let file = writer.data(128 * tensors.len()).parse().map_err(|e| e.to_string())?;
    config(&[file]).map_err(|e| e.to_string())
}

const COMMON: [(&str, &str); 6] = [
    ("embedding_length", "64"),
    ("block_count", "3"),
    ("attention.head_count", "4"),
    ("context_length", "4096"),
    ("attention.layer_norm_rms_epsilon", "1e-6"),
    ("feed_forward_length", "96"),
];

fn said(architecture: &str, more: &[(&str, &str)], tensors: &[&str], expected: Value) {
    let found = config_of(architecture, &[&COMMON, more].concat(), tensors).unwrap();
    for (key, value) in expected.as_object().into_iter().flatten() {
        assert_eq!(found.get(key), Some(value), "{key}");
    }
}

#[test]
fn dense_models() {
    said(
        "llama",
        &[("attention.head_count_kv", "2")],
        &[EMBEDDING],
        json!({
            "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 8, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "rope_scaling": null, "tie_word_embeddings": true, "rope_interleave": true,
            "attention_bias": false, "max_position_embeddings": 4096,
        }),
    );
    let yarn = [
        ("rope.scaling.type", "yarn"),
        ("rope.scaling.factor", "4.0"),
        ("rope.freq_base", "1000000.0"),
        ("rope.scaling.original_context_length", "32"),
        ("attention.key_length", "24"),
    ];
    said(
        "qwen2",
        &yarn,
        &[EMBEDDING, "output.weight"],
        json!({
            "model_type": "qwen2", "head_dim": 24, "num_key_value_heads": 4, "tie_word_embeddings": false,
            "rope_theta": 1e6,
            "rope_scaling": { "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32 },
        }),
    );
    said(
        "llama",
        &[("rope.scaling.type", "linear"), ("rope.scaling.factor", "2.0")],
        &[EMBEDDING, "blk.0.attn_q.bias"],
        json!({
            "rope_scaling": { "rope_type": "linear", "factor": 2.0 }, "attention_bias": true,
        }),
    );
}

const LATENT: [(&str, &str); 9] = [
    ("rope.dimension_count", "8"),
    ("attention.kv_lora_rank", "24"),
    ("attention.key_length", "20"),
    ("attention.value_length", "12"),
    ("expert_feed_forward_length", "16"),
    ("expert_used_count", "3"),
    ("expert_shared_count", "2"),
    ("leading_dense_block_count", "1"),
    ("expert_weights_scale", "2.5"),
];

#[test]
fn latent_attention_and_experts() {
    let v2 = [&LATENT[..], &[("expert_count", "160")]].concat();
    said(
        "deepseek2",
        &v2,
        &[EMBEDDING],
        json!({
            "model_type": "deepseek_v2", "q_lora_rank": null, "kv_lora_rank": 24, "qk_nope_head_dim": 12,
            "qk_rope_head_dim": 8, "v_head_dim": 12, "n_routed_experts": 160, "num_experts_per_tok": 3,
            "n_shared_experts": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "norm_topk_prob": false,
            "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 3, "topk_method": "group_limited_greedy",
            "scoring_func": "softmax", "num_key_value_heads": 4,
        }),
    );
    let lite = [&LATENT[..], &[("expert_count", "64")]].concat();
    said("deepseek2", &lite, &[EMBEDDING], json!({ "topk_method": "greedy", "n_group": 1, "topk_group": 1 }));
    let v3 = [
        &LATENT[..],
        &[
            ("expert_count", "16"),
            ("expert_gating_func", "2"),
            ("expert_weights_norm", "true"),
            ("expert_group_count", "4"),
            ("expert_group_used_count", "2"),
            ("attention.q_lora_rank", "20"),
            ("attention.key_length_mla", "18"),
            ("attention.value_length_mla", "10"),
            ("rope.scaling.type", "yarn"),
            ("rope.scaling.factor", "40.0"),
            ("rope.scaling.original_context_length", "4096"),
            ("rope.scaling.yarn_log_multiplier", "0.0707"),
        ],
    ]
    .concat();
    said(
        "deepseek2",
        &v3,
        &[EMBEDDING],
        json!({
            "model_type": "deepseek_v3", "q_lora_rank": 20, "qk_nope_head_dim": 10, "v_head_dim": 10, "n_group": 4,
            "topk_group": 2, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true,
            "rope_scaling": { "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096,
                              "mscale": 0.707, "mscale_all_dim": 0.707 },
        }),
    );
}

#[test]
fn what_is_not_run_is_refused_by_its_key() {
    let refused = |architecture: &str, more: &[(&str, &str)]| {
        config_of(architecture, &[&COMMON, more].concat(), &[EMBEDDING]).unwrap_err()
    };
    assert!(refused("gemma3", &[]).contains("'general.architecture' is 'gemma3'; expected llama, qwen2 or deepseek2"));
    assert!(refused("llama", &[("expert_count", "8")]).contains("'llama.expert_count' is 8"));
    assert!(refused("llama", &[("rope.dimension_count", "8")]).contains("rope.dimension_count"));
    assert!(refused("llama", &[("rope.scaling.type", "longrope")]).contains("none, linear or yarn"));
    assert!(refused("qwen2", &[("attention.head_count_kv", "0")]).contains("head_count_kv' is 0; expected 1 to"));
    let odd = [&LATENT[..], &[("expert_count", "8"), ("expert_gating_func", "3")]].concat();
    assert!(refused("deepseek2", &odd).contains("expert_gating_func' is 3"));
    assert!(refused("deepseek2", &LATENT).contains("'deepseek2.expert_count' is missing"));
    let missing = config_of("llama", &COMMON[1..], &[EMBEDDING]).unwrap_err();
    assert!(missing.contains("'llama.embedding_length' is missing"));
    assert!(config_of("llama", &COMMON, &[]).unwrap_err().contains("tensor 'token_embd.weight' is missing"));
}
