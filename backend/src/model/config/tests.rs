//! Configurations that are read, and ones that are refused with the key's name.

use serde_json::{Value, json};

use super::*;
use crate::model::BLOCK_TOKENS;

fn read(config: Value) -> Result<Config, String> {
    let Value::Object(map) = config else { panic!("no object") };
    Config::of(&map).map_err(|problem| match problem {
        Problem::Unsupported(what) => what,
        other => panic!("{other:?}"),
    })
}

fn llama() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0
    })
}

/// DeepSeek R1 as it is published.
fn r1() -> Value {
    serde_json::from_str(
        r#"{
        "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "auto_map": { "AutoConfig": "configuration_deepseek.DeepseekV3Config" }, "aux_loss_alpha": 0.001,
        "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu",
        "hidden_size": 7168, "initializer_range": 0.02, "intermediate_size": 18432, "kv_lora_rank": 512,
        "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048,
        "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true,
        "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1, "pretraining_tp": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "quantization_config": {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]
        },
        "rms_norm_eps": 1e-6,
        "rope_scaling": {
            "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096, "type": "yarn"
        },
        "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": true,
        "tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16",
        "transformers_version": "4.33.1", "use_cache": true, "v_head_dim": 128, "vocab_size": 129280
    }"#,
    )
    .unwrap()
}

/// `config` with one key changed; null takes it away.
fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

#[test]
fn r1_is_read_whole() {
    let config = read(r1()).unwrap();
    assert!(config.unread.is_empty(), "{:?}", config.unread);
    let AttentionConfig::Latent(latent) = &config.attention else { panic!("{config:?}") };
    assert_eq!((latent.q_rank, latent.cached(), latent.query()), (Some(1536), 576, 192));
    // 192^-0.5, times mscale^2: 0.1 ln 40 + 1, squared.
    assert!((latent.scale - 192f32.powf(-0.5) * 1.873_854).abs() < 1e-6, "{}", latent.scale);
    assert_eq!(config.kv_bytes_per_token(KvDtype::F32), 61 * 576 * 4);
    assert_eq!(config.feed_forward[2], FeedForward::Dense { width: 18432 });
    assert_eq!(config.feed_forward[3], FeedForward::Routed);
    let experts = config.experts.unwrap();
    assert_eq!(experts.choice, Choice::GroupsByTopTwo { groups: 8, keep: 4 });
    assert!(experts.bias && experts.normalise);
}

#[test]
fn null_is_not_the_default() {
    let of = |config| match read(config).unwrap().attention {
        AttentionConfig::Latent(latent) => latent.q_rank,
        other => panic!("{other:?}"),
    };
    assert_eq!(of(with(r1(), "q_lora_rank", Value::Null)), None);
    let mut without = r1();
    without.as_object_mut().unwrap().remove("q_lora_rank");
    assert_eq!(of(without), Some(1536));
}

#[test]
fn a_wrong_value_is_refused_with_its_key() {
    let cases = [
        ("num_attention_heads", json!(0), "a whole number from 1"),
        ("num_hidden_layers", json!("two"), "a whole number from 1"),
        ("num_key_value_heads", json!(3), "a divisor of the 4 heads"),
        ("num_attention_heads", json!(7), "num_key_value_heads"),
        ("hidden_act", json!("gelu"), "silu"),
        ("rope_scaling", json!({ "rope_type": "longrope", "factor": 2.0 }), "default, linear, llama3 or yarn"),
        ("rope_scaling", json!({ "type": "dynamic", "factor": 2.0 }), "'dynamic'"),
        ("rope_scaling", json!(3), "an object"),
        ("rope_scaling", json!({ "rope_type": "linear" }), "rope_scaling.factor' is missing"),
        (
            "rope_scaling",
            json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1 }),
            "more than low_freq_factor",
        ),
        ("rope_theta", json!(-1), "a positive number"),
        ("rms_norm_eps", json!("small"), "a number"),
        ("mlp_bias", json!(true), "not run here"),
        ("head_dim", json!(15), "cannot be rotated in pairs"),
        ("vocab_size", json!(1u64 << 40), "a whole number from 1"),
        ("max_position_embeddings", json!(-4), "a whole number from 1"),
    ];
    for (key, value, expected) in cases {
        let refused = read(with(llama(), key, value.clone())).unwrap_err();
        assert!(refused.contains(expected), "{key} = {value}: {refused}");
    }
    let cases = [
        ("topk_method", json!("greedy"), "topk_method"),
        ("scoring_func", json!("softmax"), "scoring_func"),
        ("moe_layer_freq", json!(2), "moe_layer_freq"),
        ("n_group", json!(7), "a divisor of the 256 experts"),
        ("topk_group", json!(9), "at most the 8 groups"),
        ("num_experts_per_tok", json!(200), "at most 128"),
        ("num_key_value_heads", json!(8), "the 128 attention heads"),
        ("mlp_layer_types", json!(["dense"]), "one per layer"),
    ];
    for (key, value, expected) in cases {
        let refused = read(with(r1(), key, value.clone())).unwrap_err();
        assert!(refused.contains(expected), "{key} = {value}: {refused}");
    }
}

#[test]
fn an_architecture_that_is_not_run_is_refused_by_name() {
    let refused = read(with(llama(), "model_type", json!("mamba"))).unwrap_err();
    assert!(refused.contains("'mamba'") && refused.contains("deepseek_v4"), "{refused}");
    let mut custom = with(llama(), "model_type", json!("my_model"));
    custom["auto_map"] = json!({ "AutoModel": "modeling.MyModel" });
    let refused = read(custom).unwrap_err();
    assert!(refused.contains("code of its own, which is never run"), "{refused}");
    let refused = read(json!({})).unwrap_err();
    assert!(refused.contains("'model_type' is missing"), "{refused}");
}

#[test]
fn a_key_that_nobody_knows_is_named() {
    let config = read(with(llama(), "attention_curvature", json!(2))).unwrap();
    assert_eq!(config.unread, ["attention_curvature"]);
}

#[test]
fn layers_of_v4_are_told_apart() {
    let v4 = |extra: Value| {
        let mut config = json!({
            "model_type": "deepseek_v4", "hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 8,
            "vocab_size": 100, "head_dim": 64, "qk_rope_head_dim": 16, "q_lora_rank": 32, "o_groups": 4,
            "o_lora_rank": 16, "moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 2
        });
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        config
    };
    let layers = |config: Value| match read(config).unwrap().attention {
        AttentionConfig::Compressed(compressed) => compressed.layers,
        other => panic!("{other:?}"),
    };
    let sparse = CompressedLayer::Sparse(Compression { rate: 4, overlap: true });
    let heavy = CompressedLayer::Heavy(Compression { rate: 128, overlap: false });
    assert_eq!(layers(v4(json!({}))), [heavy, heavy, heavy, sparse, heavy]);
    let ratios = layers(v4(json!({ "compress_ratios": [0, 4, 128, 4, 0, 0] })));
    assert_eq!(ratios, [CompressedLayer::Sliding, sparse, heavy, sparse, CompressedLayer::Sliding]);
    let refused = read(v4(json!({ "compress_ratios": [0, 4, 64, 4, 0] }))).unwrap_err();
    assert!(refused.contains("compress_ratios"), "{refused}");
    let refused = read(v4(json!({ "layer_types": vec!["linear_attention"; 5] }))).unwrap_err();
    assert!(refused.contains("'linear_attention'"), "{refused}");
    let refused = read(v4(json!({ "compress_rates": { "compressed_sparse_attention": 3 } }))).unwrap_err();
    assert!(refused.contains("compress_rates"), "{refused}");
    // A heavy layer: keys, a block of projections, one summary a block.
    let config = read(v4(json!({}))).unwrap();
    let planes = config.planes(0);
    assert_eq!(planes[0], Plane::tokens(64));
    assert_eq!(planes[1], Plane { rows: BLOCK_TOKENS, width: 128 });
    assert_eq!(planes[2], Plane { rows: 1, width: 64 });
    assert_eq!(config.planes(3).len(), 5);
}
