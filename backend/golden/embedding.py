r"""Makes a tiny embedding model with random weights, and the vectors that it must give.

The reference is transformers: f32 on the CPU, eager attention, each text on its own, the last token's hidden state after
the last norm, at length 1:

    python -m venv v && v/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    v/bin/python embedding.py

The folder embedding/qwen2 has the layout of a sentence-transformers repository (modules.json, 1_Pooling/config.json) around
a Qwen2Model without a head; its tokenizer puts <|endoftext|> behind every text. reference.json lists texts, their token ids
and their vectors.
"""

import json
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

FOLDER = Path(__file__).parent / "embedding" / "qwen2"
END = "<|endoftext|>"
TEXTS = [
    "The tide comes in.",
    "The tide goes out, and the boats lie on the sand.",
    "Which way does the river run?",
    "a",
    "Ein Satz über Flüsse, Brücken und Fähren.",
    "潮が満ちる。",
    " ".join(f"{n} is a number, and {n * n} is its square." for n in range(12)),
]


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, made.token_to_id(END))])
    return made


def randomise(model, seed: int) -> None:
    """Fills every parameter so that each of them moves the vectors."""
    g = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        normal = torch.randn(tensor.shape, generator=g)
        if "norm" in name:
            tensor.data.copy_(1 + 0.25 * normal)
        elif name.endswith("bias"):
            tensor.data.copy_(0.5 * normal)
        elif "embed_tokens" in name:
            tensor.data.copy_(normal)
        else:
            tensor.data.copy_(1.2 * normal / tensor.shape[-1] ** 0.5)


def write(name: str, value) -> None:
    path = FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    made = tokenizer()
    made.save(str(FOLDER / "tokenizer.json"))
    write("tokenizer_config.json", dict(tokenizer_class="PreTrainedTokenizerFast", eos_token=END, pad_token=END))
    config = Qwen2Config(
        vocab_size=made.get_vocab_size(), hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=1024, rms_norm_eps=1e-3, tie_word_embeddings=False,
        bos_token_id=made.token_to_id(END), eos_token_id=made.token_to_id(END), attn_implementation="eager",
    )
    model = Qwen2Model(config).float().eval()
    randomise(model, 1)
    model.save_pretrained(FOLDER)
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    write("modules.json", [dict(idx=int(i), name=i, path=path, type=f"sentence_transformers.models.{kind}")
                           for i, path, kind in modules])
    modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    write("1_Pooling/config.json", dict(word_embedding_dimension=config.hidden_size, include_prompt=True)
          | {f"pooling_mode_{mode}": mode == "lasttoken" for mode in modes})
    reader = PreTrainedTokenizerFast.from_pretrained(FOLDER)
    cases = []
    for text in TEXTS:
        ids = reader(text)["input_ids"]
        assert ids[-1] == made.token_to_id(END), ids
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]
        vector = torch.nn.functional.normalize(hidden, dim=0)
        cases.append(dict(text=text, ids=ids, vector=[float(f"{x:.7g}") for x in vector.tolist()]))
    path = FOLDER / "reference.json"
    path.write_text("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n")
    print({f.name: f.stat().st_size for f in sorted(FOLDER.rglob("*")) if f.is_file()}, [len(case["ids"]) for case in cases])


if __name__ == "__main__":
    main()
