"""Writes some of the tiny checkpoints as GGUF files, as llama.cpp's converter would.

    python -m venv v && v/bin/pip install gguf==0.19.0 safetensors==0.8.0 numpy==2.4.6
    v/bin/python to_gguf.py

What the files must answer is what the folders' references say (tiny.py), but for qwen2, whose sliding window such files
cannot say. Names of keys and tensors are those of the
package gguf; what changes its form on the way is done here: llama's rows of q and k lie so that rotary pairs are
neighbours, Llama 3.1's rope scaling is a tensor of divisors, experts are stacked, and the projection to keys and values is
kept in two pieces (deepseek-v3) or, as in older files, whole (deepseek-v2-lite).
"""

import json
import math
from pathlib import Path

import gguf
import numpy as np
from safetensors import safe_open

HERE = Path(__file__).parent
CASES = ["llama", "qwen2", "deepseek-v2-lite", "deepseek-v3"]
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "deepseek_v2": gguf.MODEL_ARCH.DEEPSEEK2,
    "deepseek_v3": gguf.MODEL_ARCH.DEEPSEEK2,
}


def tensors(folder: Path) -> dict[str, np.ndarray]:
    out = {}
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="np") as opened:
            out |= {name: opened.get_tensor(name) for name in opened.keys()}
    return out


def paired(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k so that those of a rotary pair are neighbours."""
    rows, cols = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def llama3_divisors(config: dict) -> np.ndarray:
    """Llama 3.1's rope scaling: long wavelengths are stretched, and there is a slope between."""
    scaling = config["rope_scaling"]
    dim = config["hidden_size"] // config["num_attention_heads"]
    original = scaling["original_max_position_embeddings"]
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    out = []
    for i in range(0, dim, 2):
        length = 2 * math.pi * config["rope_theta"] ** (i / dim)
        if length < original / high:
            out.append(1.0)
        elif length > original / low:
            out.append(factor)
        else:
            smooth = (original / length - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, dtype=np.float32)


def metadata(writer: gguf.GGUFWriter, config: dict, split: bool) -> None:
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    scaling = config.get("rope_scaling") or {}
    if scaling.get("type", scaling.get("rope_type")) == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(scaling["factor"]))
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if "mscale_all_dim" in scaling:
            writer.add_rope_scaling_yarn_log_mul(0.1 * scaling["mscale_all_dim"])
    if "kv_lora_rank" not in config:
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
        return
    rank, rope, nope, value = (config[k] for k in ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"))
    if config.get("q_lora_rank"):
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_rope_dimension_count(rope)
    # In two pieces it is attended to as one head of latent vectors.
    writer.add_head_count_kv(1 if split else config["num_key_value_heads"])
    writer.add_key_length(rank + rope if split else nope + rope)
    writer.add_value_length(rank if split else value)
    if split:
        writer.add_key_length_mla(nope + rope)
        writer.add_value_length_mla(value)
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    if config["norm_topk_prob"]:
        writer.add_expert_weights_norm(True)
    sigmoid = config["scoring_func"] == "sigmoid"
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID if sigmoid else gguf.ExpertGatingFuncType.SOFTMAX)
    if config.get("n_group"):
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])


def convert(name: str) -> None:
    folder = HERE / "tiny" / name
    config = json.loads((folder / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    split = config["model_type"] == "deepseek_v3"
    writer = gguf.GGUFWriter(HERE / "gguf" / f"{name}.gguf", gguf.MODEL_ARCH_NAMES[architecture])
    metadata(writer, config, split)
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    names = gguf.get_tensor_name_map(architecture, layers)
    stacks: dict[str, list[np.ndarray]] = {}

    def add(theirs: str, data: np.ndarray) -> None:
        ours = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        assert ours is not None, theirs
        # Vectors are f32 in these files, whatever matrices are.
        data = data.astype(np.float32) if data.ndim == 1 else data
        writer.add_tensor(ours, np.ascontiguousarray(data))

    for theirs, data in tensors(folder).items():
        parts = theirs.split(".")
        if parts[1] == "layers" and int(parts[2]) >= layers:
            continue  # multi-token prediction
        if "experts" in parts and "shared_experts" not in parts:
            at = parts.index("experts")
            stacked = ".".join(parts[: at + 1] + parts[at + 2 :])
            stacks.setdefault(stacked, [None] * config["n_routed_experts"])[int(parts[at + 1])] = data
            continue
        if config["model_type"] == "llama" and parts[-2] in ("q_proj", "k_proj"):
            data = paired(data, heads if parts[-2] == "q_proj" else config["num_key_value_heads"])
        if theirs.endswith("e_score_correction_bias"):
            theirs = theirs.replace("e_score_correction_bias", "e_score_correction.bias")
        if split and parts[-2] == "kv_b_proj":
            nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
            per_head = data.reshape(heads, nope + value, config["kv_lora_rank"])
            add(theirs.replace("kv_b_proj", "k_b_proj"), per_head[:, :nope].transpose(0, 2, 1))
            add(theirs.replace("kv_b_proj", "v_b_proj"), per_head[:, nope:])
            continue
        add(theirs, data)
    for theirs, data in stacks.items():
        add(theirs, np.stack(data))
    if config["model_type"] == "llama":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


(HERE / "gguf").mkdir(exist_ok=True)
for case in CASES:
    convert(case)
