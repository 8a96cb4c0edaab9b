r"""Makes the golden results that tests/golden.rs compares the node with.

The reference is transformers, which unpacks the GGUF file to f32 and computes on the CPU:

    python -m venv v && v/bin/pip install torch==2.15.0 transformers==5.23.0 gguf==0.19.0 safetensors==0.8.0 \
        numpy==2.4.6 jinja2==3.1.6 tokenizers==0.23.3
    v/bin/python make.py ~/.cache/littoral/models/SmolLM2-135M-Instruct.Q4_1.gguf

It writes smollm2.safetensors (per prompt: ids, logits after the last id, greedy continuation) and smollm2.json (the
conversations, rendered prompts, texts and their ids). Greedy is the plain argmax of each step, with no end of text.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

GREEDY = 64

CONVERSATIONS = {
    "english": [{"role": "user", "content": "Why does the tide come in twice a day? Answer in two sentences."}],
    "code": [
        {"role": "system", "content": "You write short, correct Python."},
        {"role": "user", "content": "def fib(n):\n    if n < 2:\n        return n\n\nFinish this function, then call it for n = 1234."},
    ],
    "chinese": [
        {"role": "user", "content": "你好！请用一句话介绍一下大海。🌊"},
        {"role": "assistant", "content": "大海很大。"},
        {"role": "user", "content": "再说一句。"},
    ],
}

# Long enough to be scored in several chunks.
CONVERSATIONS["long"] = [{
    "role": "user",
    "content": "Summarise these harbour notes.\n" + "\n".join(
        f"Day {day}: high water at {day % 12}:{day * 7 % 60:02}, {day * 13 % 9} boats in, {day * 5 % 7} boats out."
        for day in range(1, 13)
    ),
}]

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two spaces,\ttabs\t\tand\n\nnew lines \n",
    "I've seen 3.14159 and 2026-11-23, haven't you? It's 100% DONE.",
    "fn main() { println!(\"{}\", 0xff_u32 + 1_000_000); } // end",
    "深度求索，数字１２３和汉字混排。",
    "emoji 👩‍👩‍👧‍👦 🏖️ é é ñ Ω ﬁ",
    "<|im_start|>user\nspecial tokens<|im_end|>\n<|endoftext|>",
    "a" * 70 + " " * 9 + "b",
    "Ünïcödé ǅ ٣٤ ½ ² x² १२३",
]


def main(path: Path) -> None:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # The pre-tokenizer 'smollm' cuts digits apart, as SmolLM's own tokenizer.json does; transformers leaves that out when
    # it reads a GGUF file, which shows with digits other than 0-9.
    cut = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    print(model.config)
    tensors, prompts = {}, []
    for name, messages in CONVERSATIONS.items():
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
            out = list(ids)
            past = None
            for _ in range(GREEDY):
                step = model(torch.tensor([out if past is None else out[-1:]]), past_key_values=past, use_cache=True)
                past = step.past_key_values
                top = step.logits[0, -1].topk(2)
                out.append(int(top.indices[0]))
                print(name, len(out), out[-1], "margin", float(top.values[0] - top.values[1]))
        greedy = out[len(ids):]
        tensors[f"{name}.ids"] = torch.tensor(ids, dtype=torch.int32)
        tensors[f"{name}.logits"] = logits.to(torch.float32).contiguous()
        tensors[f"{name}.greedy"] = torch.tensor(greedy, dtype=torch.int32)
        prompts.append({
            "name": name,
            "messages": messages,
            "prompt": text,
            "greedy_text": tokenizer.decode(greedy, skip_special_tokens=True, clean_up_tokenization_spaces=False),
        })
    texts = [{"text": t, "ids": tokenizer(t, add_special_tokens=False).input_ids} for t in TEXTS]
    here = Path(__file__).parent
    save_file(tensors, here / "smollm2.safetensors")
    document = {"prompts": prompts, "texts": texts}
    (here / "smollm2.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
