r"""Makes tiny checkpoints of every architecture, with random weights, and what they must answer.

The reference is transformers: f32 on the CPU, eager attention, the whole prompt at once and no cache:

    python -m venv v && v/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    v/bin/python tiny.py [NAME..]

Each case becomes a folder tiny/NAME in the layout of a model repository (config.json, generation_config.json, safetensors)
with reference.safetensors beside it:

    P.ids [T] i32, P.logits [T, vocab] f32    for the prompts P = a (46-48 tokens), b (13) and c (5), each on its own
    a.greedy [8] i32, a.greedy_logits [8, vocab] f32    plain argmax after prompt a, the whole prompt anew at each step

The weights come from the first seed at which no router, group or indexer choice is nearly a tie and every argmax is clear,
so that rounding cannot flip one. Epsilons, clamps and scales are larger than in real models: a mistake has to show.
"""

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

HERE = Path(__file__).parent
GREEDY = 8
TIE = 1e-4  # smallest relative distance between the last value a top-k takes and the first it leaves
CLEAR = 1e-3  # smallest distance between the two best logits of a greedy step
V4_BLOCK = [32, 32]
FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


@dataclass
class Case:
    name: str
    config: dict  # as a model repository has it
    resaved: bool = False  # write config.json as transformers saves it, not as given
    store: str = "f32"  # f32, bf16, f16, fp8 (V3's), disk (V4's own names, FP8 and FP4)
    like: str = ""  # weights rounded as with this `store`, but kept under transformers' names
    shards: int = 1
    mtp: bool = False
    length: int = 48
    generation: dict = field(default_factory=dict)


def yarn(**keys) -> dict:
    return {"type": "yarn", "factor": 40, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1, **keys}


LLAMA = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", hidden_size=64, intermediate_size=96,
    num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=192, max_position_embeddings=128,
    rms_norm_eps=1e-3, rope_theta=10000.0, bos_token_id=1, eos_token_id=2, mlp_bias=False, attention_dropout=0.0,
    initializer_range=0.02, pretraining_tp=1, use_cache=True,
)
QWEN2 = dict(
    architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_act="silu", hidden_size=48, intermediate_size=80,
    num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2, vocab_size=176, max_position_embeddings=128,
    rms_norm_eps=1e-3, rope_theta=1000.0, bos_token_id=1, eos_token_id=2, attention_dropout=0.0, initializer_range=0.02,
    use_cache=True,
)
V2 = dict(
    architectures=["DeepseekV2ForCausalLM"], model_type="deepseek_v2", hidden_act="silu", vocab_size=160, hidden_size=48,
    intermediate_size=72, moe_intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
    kv_lora_rank=24, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=12, n_routed_experts=8, num_experts_per_tok=3,
    n_shared_experts=2, first_k_dense_replace=1, moe_layer_freq=1, norm_topk_prob=False, scoring_func="softmax",
    max_position_embeddings=1280, rms_norm_eps=1e-2, rope_theta=100, attention_bias=False, attention_dropout=0.0,
    aux_loss_alpha=0.001, seq_aux=True, bos_token_id=0, eos_token_id=1, initializer_range=0.02, tie_word_embeddings=False,
    use_cache=True, pretraining_tp=1,
)
V3 = V2 | dict(
    architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3", q_lora_rank=20, n_group=4, topk_group=2,
    topk_method="noaux_tc", norm_topk_prob=True, scoring_func="sigmoid", routed_scaling_factor=2.5, n_shared_experts=1,
    ep_size=1, num_nextn_predict_layers=0, rope_scaling=yarn(mscale=1.0, mscale_all_dim=1.0),
)
V32 = {k: v for k, v in V3.items() if k not in ("aux_loss_alpha", "seq_aux", "rope_scaling", "rope_theta")} | dict(
    architectures=["DeepseekV32ForCausalLM"], model_type="deepseek_v32", index_n_heads=8, index_head_dim=24, index_topk=7,
    num_hidden_layers=4, first_k_dense_replace=2, attention_bias=True, max_position_embeddings=128,
    rope_parameters=dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=32, beta_fast=2.0,
                         beta_slow=0.5, mscale=1.0, mscale_all_dim=0.6),
)
V4 = dict(
    architectures=["DeepseekV4ForCausalLM"], model_type="deepseek_v4", hidden_act="silu", vocab_size=160, hidden_size=64,
    moe_intermediate_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=1, head_dim=32,
    qk_rope_head_dim=8, q_lora_rank=48, o_groups=2, o_lora_rank=24, n_routed_experts=6, num_experts_per_tok=2,
    n_shared_experts=1, num_hash_layers=1, scoring_func="sqrtsoftplus", topk_method="noaux_tc", norm_topk_prob=True,
    routed_scaling_factor=1.5, swiglu_limit=1.25, sliding_window=8, compress_ratios=[0, 4, 128, 4, 0], compress_rate_csa=4,
    compress_rate_hca=8, compress_rope_theta=400, rope_theta=100, rope_scaling=yarn(factor=16, beta_fast=4),
    index_n_heads=8, index_head_dim=16, index_topk=3, hc_mult=4, hc_sinkhorn_iters=4, hc_eps=1e-2,
    max_position_embeddings=512, num_nextn_predict_layers=1, attention_bias=False, attention_dropout=0.0, bos_token_id=0,
    eos_token_id=1, initializer_range=0.02, rms_norm_eps=1e-2, tie_word_embeddings=False, use_cache=True,
)
CASES = [
    Case("llama", LLAMA | dict(
        attention_bias=False, tie_word_embeddings=True, torch_dtype="float32",
        rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=32),
    ), generation=dict(do_sample=True, temperature=0.6, top_p=0.9, bos_token_id=1, eos_token_id=[2, 3])),
    Case("llama-yarn", LLAMA | dict(
        attention_bias=True, tie_word_embeddings=False, head_dim=24, num_hidden_layers=2, hidden_size=48, torch_dtype="bfloat16",
        rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
    ), resaved=True, store="bf16"),
    Case("qwen2", QWEN2 | dict(
        tie_word_embeddings=False, use_sliding_window=True, sliding_window=8, max_window_layers=2, torch_dtype="float16",
    ), store="f16", generation=dict(do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05,
                                    bos_token_id=1, eos_token_id=[2, 1], pad_token_id=1)),
    Case("qwen2-yarn", QWEN2 | dict(
        tie_word_embeddings=True, use_sliding_window=False, sliding_window=8, max_window_layers=2, num_hidden_layers=2,
        torch_dtype="float32", rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=2.0,
                                                 beta_slow=0.5, attention_factor=1.2, truncate=False),
    )),
    Case("deepseek-v2-lite", V2 | dict(
        q_lora_rank=None, topk_method="greedy", n_group=1, topk_group=1, routed_scaling_factor=1.5, torch_dtype="float32",
        rope_scaling=yarn(mscale=0.707, mscale_all_dim=0.707),
    ), generation=dict(do_sample=True, temperature=0.3, top_p=0.95, bos_token_id=0, eos_token_id=1)),
    Case("deepseek-v2", V2 | dict(
        q_lora_rank=20, topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=3.0,
        torch_dtype="bfloat16", rope_scaling=yarn(mscale=1.0, mscale_all_dim=0.5),
    ), store="bf16"),
    Case("deepseek-v3", V3 | dict(num_nextn_predict_layers=1, torch_dtype="float32"), shards=2, mtp=True,
         generation=dict(do_sample=True, temperature=0.6, top_p=0.95, bos_token_id=0, eos_token_id=1)),
    Case("deepseek-v3-fp8", V3 | dict(
        hidden_size=56, torch_dtype="bfloat16", num_attention_heads=4,
        quantization_config=dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[16, 16]),
    ), store="fp8"),
    Case("deepseek-v32", V32, resaved=True),
    Case("deepseek-v4", V4, resaved=True, like="disk", length=46),
    Case("deepseek-v4-disk", V4 | dict(
        torch_dtype="bfloat16", expert_dtype="fp4",
        quantization_config=dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", scale_fmt="ue8m0",
                                 weight_block_size=V4_BLOCK),
    ), store="disk", mtp=True, length=46),
]


# Weights


def randomise(model, seed: int) -> None:
    """Fills every parameter and kept buffer so that each of them moves the logits."""
    g = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        shape, leaf, t = tensor.shape, name.rsplit(".", 1)[-1], tensor.data
        normal = torch.randn(shape, generator=g)
        if leaf == "tid2eid":
            experts = model.config.n_routed_experts
            t.copy_(torch.stack([torch.randperm(experts, generator=g)[: shape[1]] for _ in range(shape[0])]))
        elif "norm" in name and leaf == "weight":
            t.copy_(1 + 0.25 * normal)
        elif leaf == "e_score_correction_bias":
            t.copy_(0.2 * normal - 0.2)
        elif leaf in ("scale", "hc_scale"):
            t.copy_(0.5 + torch.rand(shape, generator=g))
        elif leaf in ("bias", "base", "hc_base", "position_bias"):
            t.copy_(0.5 * normal)
        elif leaf == "sinks":
            t.copy_(normal)
        elif "embed_tokens" in name:
            t.copy_(normal * (0.4 if model.config.tie_word_embeddings else 1))
        else:  # [out, in] or [experts, out, in]; rows and columns differ in size, so that block scales do too
            gain = 2.5 if "lm_head" in name or name.endswith("gate.weight") else 1.2
            size = torch.exp(0.4 * torch.randn(shape[-2:-1], generator=g))[:, None]
            size = size * torch.exp(0.4 * torch.randn(shape[-1:], generator=g))
            t.copy_(gain * normal * size / shape[-1] ** 0.5)


def mtp_v3(tensors: dict, config: dict, seed: int) -> dict:
    """The next-token predictor that follows the last layer: one more layer and what joins it to the model."""
    g, last, hidden = torch.Generator().manual_seed(seed), config["num_hidden_layers"], config["hidden_size"]
    old, new = f"model.layers.{last - 1}.", f"model.layers.{last}."
    extra = {new + k[len(old):]: torch.randn(t.shape, generator=g) for k, t in tensors.items() if k.startswith(old)}
    for key in ("enorm", "hnorm", "shared_head.norm"):
        extra[f"{new}{key}.weight"] = torch.randn(hidden, generator=g)
    extra[f"{new}eh_proj.weight"] = torch.randn(hidden, 2 * hidden, generator=g)
    for key in ("embed_tokens", "shared_head.head"):
        extra[f"{new}{key}.weight"] = torch.randn(config["vocab_size"], hidden, generator=g)
    return extra


def fp8(w: torch.Tensor, block: list[int], power: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks of `block` rows and columns, the last ones short, each with its own scale."""
    rows, cols = [range(0, n, b) for n, b in zip(w.shape, block)]
    scale = torch.stack([torch.stack([w[r : r + block[0], c : c + block[1]].abs().max() for c in cols]) for r in rows]) / 448
    if power:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    return (w / spread(scale, w.shape, block)).to(torch.float8_e4m3fn), scale


def spread(scale: torch.Tensor, shape, block: list[int]) -> torch.Tensor:
    wide = scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return wide[: shape[0], : shape[1]]


def fp4(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two e2m1 values a byte, the low half first; one power of two per row and 32 columns."""
    parts = w.unflatten(1, (-1, 32))
    scale = torch.exp2(torch.ceil(torch.log2(parts.abs().amax(-1) / 6)))
    code = ((parts / scale[..., None]).abs()[..., None] - FP4).abs().argmin(-1) + 8 * (parts < 0)
    code = code.flatten(1)
    return (code[:, 0::2] + 16 * code[:, 1::2]).to(torch.uint8).view(torch.int8), scale


def e8m0(scale: torch.Tensor) -> torch.Tensor:
    return (torch.log2(scale) + 127).to(torch.uint8).view(torch.float8_e8m0fnu)


def dequantise(tensors: dict, block: list[int]) -> dict:
    """The f32 values of a file, under the same names; scales are taken up."""
    out = {}
    for name, t in tensors.items():
        if name.endswith((".weight_scale_inv", ".scale")):
            continue
        scale = tensors.get(f"{name}_scale_inv", tensors.get(f"{name.removesuffix('.weight')}.scale"))
        if scale is not None and scale.dtype == torch.float8_e8m0fnu:
            scale = torch.exp2(scale.view(torch.uint8).float() - 127)
        if t.dtype == torch.int8:
            bytes_ = t.view(torch.uint8).long()
            code = torch.stack([bytes_ & 15, bytes_ >> 4], -1).flatten(1)
            t = FP4[code & 7] * (1 - 2 * (code >> 3)) * scale.repeat_interleave(32, 1)
        elif t.dtype == torch.float8_e4m3fn:
            t = t.float() * spread(scale, t.shape, block)
        out[name] = t.float() if t.is_floating_point() else t
    return out


V4_NAMES = [
    ("model.hc_head.hc_", "hc_head_"), ("model.embed_tokens.", "embed."), ("lm_head.", "head."), ("model.", ""),
    (".self_attn.compressor.indexer.scorer.", ".attn.indexer."), (".self_attn.compressor.indexer.q_b_proj", ".attn.indexer.wq_b"),
    (".self_attn.compressor.indexer.", ".attn.indexer.compressor."), (".compressor.kv_norm", ".compressor.norm"),
    (".self_attn.", ".attn."), (".mlp.", ".ffn."), (".input_layernorm", ".attn_norm"),
    (".post_attention_layernorm", ".ffn_norm"), (".attn_hc.", ".hc_attn_"), (".ffn_hc.", ".hc_ffn_"), (".sinks", ".attn_sink"),
    (".q_a_proj", ".wq_a"), (".q_a_norm", ".q_norm"), (".q_b_proj", ".wq_b"), (".o_a_proj", ".wo_a"), (".o_b_proj", ".wo_b"),
    (".position_bias", ".ape"), (".e_score_correction_bias", ".bias"),
]


def disk_v4(model) -> dict:
    """A model's tensors under DeepSeek's own names: FP8 linears, FP4 experts, the rest in bf16, f32 where it is kept so."""
    out = {}
    for name, t in model.state_dict().items():
        for old, new in V4_NAMES:
            name = name.replace(old, new)
        if ".attn." in name:
            name = name.replace(".kv_proj", ".wkv").replace(".gate_proj", ".wgate")
        if name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj"):
            for j, expert in enumerate(t):
                parts = zip(("w1", "w3"), expert.chunk(2)) if "gate_up" in name else [("w2", expert)]
                for w, part in parts:
                    key = f"{name.rsplit('.', 1)[0]}.{j}.{w}"
                    out[f"{key}.weight"], scale = fp4(part)
                    out[f"{key}.scale"] = e8m0(scale)
            continue
        for old, new in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")):
            name = name.replace(f"shared_experts.{old}", f"shared_experts.{new}")
        wide = t.dim() == 2 and name.endswith(".weight") and not name.startswith(("embed.", "head."))
        if wide and not any(k in name for k in ("compressor.", "weights_proj", "ffn.gate.")):
            out[name], scale = fp8(t, V4_BLOCK, power=True)
            out[f"{name.removesuffix('weight')}scale"] = e8m0(scale)
        elif name.endswith("tid2eid"):
            out[name] = t.to(torch.int32)
        elif t.dim() == 2 and name.endswith(".weight"):
            out[name] = t.to(torch.bfloat16)
        elif "norm" in name:
            out[name] = t.to(torch.bfloat16)
        else:
            out[name] = t.clone()
    return out


def mtp_v4(config: dict, seed: int) -> dict:
    """What is left of V4's predictor is enough to see that it is passed over."""
    g, hidden = torch.Generator().manual_seed(seed), config["hidden_size"]
    weight, scale = fp8(torch.randn(hidden, hidden, generator=g), V4_BLOCK, power=True)
    bf16 = lambda: torch.randn(hidden, generator=g).to(torch.bfloat16)
    return {"mtp.0.enorm.weight": bf16(), "mtp.0.hnorm.weight": bf16(), "mtp.0.norm.weight": bf16(),
            "mtp.0.e_proj.weight": weight, "mtp.0.e_proj.scale": e8m0(scale)}


def stored(tensors: dict, store: str, config: dict) -> dict:
    """Tensors under transformers' names, rounded to how the file keeps them."""
    out = {}
    for name, t in tensors.items():
        if not t.is_floating_point() or name.endswith("e_score_correction_bias"):
            out[name] = t
        elif store == "fp8" and name.endswith(("_proj.weight", "_with_mqa.weight")):
            out[name], out[f"{name}_scale_inv"] = fp8(t, config["quantization_config"]["weight_block_size"], power=False)
        else:
            out[name] = t.to({"f32": torch.float32, "f16": torch.float16}.get(store, torch.bfloat16))
    return out


# Files


def save(tensors: dict, folder: Path, shards: int = 1) -> None:
    tensors = {k: t.contiguous() for k, t in sorted(tensors.items())}
    if shards == 1:
        return save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    names, half = list(tensors), sum(t.nbytes for t in tensors.values()) / shards
    files, total = {}, 0
    for name in names:
        files[name] = f"model-{int(total // half) + 1:05}-of-{shards:05}.safetensors"
        total += tensors[name].nbytes
    for file in set(files.values()):
        save_file({n: tensors[n] for n in names if files[n] == file}, folder / file, metadata={"format": "pt"})
    write(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": files})


def read(folder: Path) -> dict:
    return {k: t for file in sorted(folder.glob("model*.safetensors")) for k, t in load_file(file).items()}


def write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def load(folder: Path):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    bad = {k: v for k, v in info.items() if v and k != "unexpected_keys"}
    odd = [k for k in info["unexpected_keys"] if "mtp." not in k and f"layers.{model.config.num_hidden_layers}." not in k]
    assert not bad and not odd, (bad, odd)
    return model.eval()


def make(case: Case, seed: int, folder: Path):
    """Writes the case's files into `folder` and returns the model that they hold, computed in f32."""
    config, plain_config = case.config, {k: v for k, v in case.config.items() if k not in ("quantization_config", "expert_dtype")}
    with tempfile.TemporaryDirectory() as fresh_temp, tempfile.TemporaryDirectory() as plain_temp:
        fresh, plain = Path(fresh_temp), Path(plain_temp)
        write(fresh / "config.json", plain_config)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(fresh), dtype=torch.float32)
        randomise(model, seed)
        if "disk" in (case.store, case.like):
            tensors = disk_v4(model) | (mtp_v4(config, seed) if case.mtp else {})
        else:
            model.save_pretrained(fresh)
            tensors = read(fresh)
            tensors = stored(tensors | (mtp_v3(tensors, config, seed) if case.mtp else {}), case.store, config)
        if not case.like:
            save(tensors, folder, case.shards)
            tensors = read(folder)
        # What the file holds, as plain f32 that transformers reads: it has no FP8 blocks that end short.
        write(plain / "config.json", plain_config)
        save(dequantise(tensors, config.get("quantization_config", {}).get("weight_block_size", V4_BLOCK)), plain)
        model = load(plain)
        if case.like:
            model.save_pretrained(folder)
            tensors = read(folder)
            for key, t in tensors.items():  # transformers keeps norms and the small f32 tensors so; bf16 loses nothing here
                if t.dim() == 2 and key.endswith(".weight"):
                    tensors[key] = t.to(torch.bfloat16)
                    assert torch.equal(tensors[key].float(), t), key
            save(tensors, folder)
        if case.resaved:
            model.save_pretrained(fresh)
            config = json.loads((fresh / "config.json").read_text())
            config["dtype"] = "bfloat16" if case.store == "bf16" or case.like else "float32"
        write(folder / "config.json", config)
        if case.generation:
            write(folder / "generation_config.json", case.generation)
    return model


# The reference


class Ties:
    """Watches every top-k of a forward pass for the distance between what it takes and what it leaves."""

    def __enter__(self):
        self.least, self.choices, self.plain = float("inf"), 0, (torch.topk, torch.Tensor.topk)
        torch.topk = torch.Tensor.topk = lambda x, *args, **keys: self.topk(x, sys._getframe(1), *args, **keys)
        return self

    def __exit__(self, *_):
        torch.topk, torch.Tensor.topk = self.plain

    def topk(self, x, frame, k, dim=-1, **keys):
        caller = type(frame.f_locals.get("self")).__name__
        if k < x.shape[-1] and not ("Router" in caller and x.dim() == 3):  # the sum of a group's best two has no ties
            best = self.plain[1](x, k + 1, dim=dim).values
            last, left = best[..., -2], best[..., -1]
            real = (last > -1e30) & (left > -1e30)
            gap = (last - left) / torch.maximum(last.abs(), left.abs()).clamp(min=1e-9)
            if real.any():
                self.least, self.choices = min(self.least, float(gap[real].min())), self.choices + int(real.sum())
        return self.plain[1](x, k, dim=dim, **keys)


def run(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0]


def cached(model, ids: list[int], first: int) -> torch.Tensor:
    """The same logits from transformers' own cache: `first` ids at once, then one at a time."""
    past, logits = None, []
    with torch.no_grad():
        for part in [ids[:first], *([i] for i in ids[first:])]:
            step = model(torch.tensor([part]), past_key_values=past, use_cache=True)
            past = step.past_key_values
            logits.append(step.logits[0])
    return torch.cat(logits)


def idle(model, ids: list[int]) -> list[str]:
    """Tensors (or single experts) that hardly move the logits of `ids`."""
    base, out = run(model, ids), []
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not tensor.is_floating_point():
            continue
        for j, part in enumerate(tensor.data if tensor.dim() == 3 else [tensor.data]):
            kept = part.clone()
            part.copy_(kept * 1.3 + 0.1 * torch.linspace(-1, 1, kept.numel()).view_as(kept))
            moved = float((run(model, ids) - base).abs().max())
            part.copy_(kept)
            if moved < 1e-2:
                out.append(f"{name}[{j}] {moved:.1e}")
    return out


def reference(case: Case, model, seed: int) -> dict | None:
    g, tensors = torch.Generator().manual_seed(1000 + seed), {}
    prompts = {p: torch.randint(4, model.config.vocab_size, (n,), generator=g).tolist()
               for p, n in (("a", case.length), ("b", 13), ("c", 5))}
    margin, greedy, steps = float("inf"), [], []
    with Ties() as ties:
        for p, ids in prompts.items():
            tensors[f"{p}.ids"] = torch.tensor(ids, dtype=torch.int32)
            tensors[f"{p}.logits"] = run(model, ids)
        for _ in range(GREEDY):
            logits = run(model, prompts["a"] + greedy)[-1]
            top = logits.sort(descending=True).values
            margin = min(margin, float(top[0] - top[1]))
            steps.append(logits)
            greedy.append(int(logits.argmax()))
    tensors["a.greedy"] = torch.tensor(greedy, dtype=torch.int32)
    tensors["a.greedy_logits"] = torch.stack(steps)
    if ties.least < TIE or margin < CLEAR:
        print(f"  seed {seed}: choices {ties.least:.1e}, greedy {margin:.1e}: next")
        return None
    lazy = idle(model, prompts["a"])
    if lazy:
        print(f"  seed {seed}: hardly used: {', '.join(lazy)}: next")
        return None
    whole = prompts["a"] + greedy
    full = run(model, whole)
    apart = float((cached(model, whole, 11) - full).abs().max())
    exact = float((run(model.double(), whole) - full).abs().max())
    model.float()
    print(f"  seed {seed}: {ties.choices} choices, nearest {ties.least:.1e}; greedy margin {margin:.1e}; logits std "
          f"{float(full.std()):.2f}; cached decode differs by {apart:.1e}, f64 by {exact:.1e}; greedy {greedy}")
    return tensors


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    for case in CASES:
        if names and case.name not in names:
            continue
        print(case.name)
        folder = HERE / "tiny" / case.name
        for seed in count():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            model = make(case, seed, folder)
            tensors = reference(case, model, seed)
            if tensors is not None:
                save_file(tensors, folder / "reference.safetensors")
                break
        print(" ", {f.name: f.stat().st_size for f in sorted(folder.iterdir())})


if __name__ == "__main__":
    main(sys.argv[1:])
