"""Prefill and decode of a GGUF file with llama.cpp: model, threads, prompt lengths, batches, tokens, rounds.

Prints the same JSON as node-load. Nothing is sampled between steps, which is in llama.cpp's favour.
"""

import json
import statistics
import sys
import time

import llama_cpp as lib

path, threads, lengths, batches, tokens, rounds = sys.argv[1:]
threads, tokens, rounds = int(threads), int(tokens), int(rounds)
lengths = [int(n) for n in lengths.split(",")]
batches = [int(n) for n in batches.split(",")]
# What an answer of node-load's prompts is preceded by.
PAST = 40

lib.llama_backend_init()
model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))

params = lib.llama_context_default_params()
params.n_seq_max = max(batches)
params.n_ctx = params.n_seq_max * max(max(lengths), PAST + tokens + 8)
params.n_batch = params.n_ubatch = max(max(lengths), params.n_seq_max * PAST)
params.n_threads = params.n_threads_batch = threads
context = lib.llama_init_from_model(model, params)
assert context, "llama.cpp made no context"
batch = lib.llama_batch_init(params.n_batch, 0, params.n_seq_max)


def step(rows):
    """Computes rows of (token, position, sequence, whether logits are wanted); seconds."""
    for i, (token, position, sequence, logits) in enumerate(rows):
        batch.token[i] = (token * 7919 + 13) % vocabulary
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = logits
    batch.n_tokens = len(rows)
    began = time.perf_counter()
    assert lib.llama_decode(context, batch) == 0, "a step failed"
    lib.llama_synchronize(context)
    return time.perf_counter() - began


def clear():
    lib.llama_memory_clear(lib.llama_get_memory(context), True)


def prefill(length):
    clear()
    return step([(i, i, 0, i == length - 1) for i in range(length)])


def decode(count):
    clear()
    step([(i + s, i, s, i == PAST - 1) for s in range(count) for i in range(PAST)])
    spent = sum(step([(i + s, PAST + i, s, True) for s in range(count)]) for i in range(tokens))
    return tokens * count / spent


prefill(16)
median = statistics.median
report = {
    "prefill": [{"prompt_tokens": n, "seconds": median(prefill(n) for _ in range(rounds))} for n in lengths],
    "decode": [{"batch": n, "tokens_per_s": median(decode(n) for _ in range(rounds))} for n in batches],
}
print(json.dumps(report))
