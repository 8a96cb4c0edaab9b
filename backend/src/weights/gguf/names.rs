//! llama.cpp's names of tensors, and Hugging Face's.

/// Tensors of no layer, without `.weight`.
const TOP: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Tensors of a layer, after `blk.N.` and after `model.layers.N.`, without `.weight` or `.bias`.
const LAYER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_a", "self_attn.q_a_proj"),
    ("attn_q_a_norm", "self_attn.q_a_layernorm"),
    ("attn_q_b", "self_attn.q_b_proj"),
    ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
    ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
    ("attn_kv_b", "self_attn.kv_b_proj"),
    // The two halves of kv_b_proj, the keys' transposed.
    ("attn_k_b", "self_attn.k_b_proj"),
    ("attn_v_b", "self_attn.v_b_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    // All experts of a layer in one tensor, [experts, outputs, inputs].
    ("ffn_gate_exps", "mlp.experts.gate_proj"),
    ("ffn_up_exps", "mlp.experts.up_proj"),
    ("ffn_down_exps", "mlp.experts.down_proj"),
    ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
];

/// The router's bias is a tensor of its own there, with two names over time here.
const ROUTER_BIAS: [&str; 2] = ["exp_probs_b.bias", "exp_probs_b"];

/// Hugging Face's name of a tensor. One that has none there (`rope_freqs.weight`) or is not known keeps its own.
pub fn hugging_face(name: &str) -> String {
    known(name).unwrap_or_else(|| name.to_owned())
}

fn known(name: &str) -> Option<String> {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let (table, prefix, part) = match layer {
        Some((layer, part)) => (LAYER, format!("model.layers.{}.", layer.parse::<u32>().ok()?), part),
        None => (TOP, String::new(), name),
    };
    if layer.is_some() && ROUTER_BIAS.contains(&part) {
        return Some(format!("{prefix}mlp.gate.e_score_correction_bias"));
    }
    let (part, ending) = part.rsplit_once('.').filter(|(_, ending)| matches!(*ending, "weight" | "bias"))?;
    let (_, theirs) = table.iter().find(|(ours, _)| *ours == part)?;
    Some(format!("{prefix}{theirs}.{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated_or_kept() {
        let table = [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("output_norm.weight", "model.norm.weight"),
            ("blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"),
            ("blk.12.attn_kv_a_mqa.weight", "model.layers.12.self_attn.kv_a_proj_with_mqa.weight"),
            ("blk.60.ffn_down_exps.weight", "model.layers.60.mlp.experts.down_proj.weight"),
            ("blk.3.ffn_gate_inp.weight", "model.layers.3.mlp.gate.weight"),
            ("blk.3.exp_probs_b.bias", "model.layers.3.mlp.gate.e_score_correction_bias"),
            ("rope_freqs.weight", "rope_freqs.weight"),
            ("blk.1.ffn_gate.7.weight", "blk.1.ffn_gate.7.weight"),
            ("blk.x.attn_q.weight", "blk.x.attn_q.weight"),
            ("blk.1", "blk.1"),
            ("exp_probs_b.bias", "exp_probs_b.bias"),
            ("blk.1.attn_q.scale", "blk.1.attn_q.scale"),
        ];
        for (ours, theirs) in table {
            assert_eq!(hugging_face(ours), theirs);
        }
    }

    #[test]
    fn no_name_stands_for_two() {
        for table in [TOP, LAYER] {
            for column in [|pair: &(&'static str, &'static str)| pair.0, |pair: &(&'static str, &'static str)| pair.1] {
                let mut all: Vec<_> = table.iter().map(column).collect();
                all.sort_unstable();
                all.dedup();
                assert_eq!(all.len(), table.len());
            }
        }
    }
}
