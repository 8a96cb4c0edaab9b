"""Writes blocks.bin: random blocks of every quantised format, and what gguf-py makes of them.

    pip install gguf numpy
    python blocks.py

Per format: its name (8 bytes, filled up with zeros), the number of blocks and of elements (u32 each), the blocks, and
the elements in f32. Everything is little-endian.
"""

import struct
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize

# Where a block has binary16 numbers; random bits would be infinities and NaN too often.
HALVES = {
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q8_0: [0],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
    Type.MXFP4: [],
}

random = np.random.default_rng(20250101)
out = bytearray()
for kind, halves in HALVES.items():
    elements, size = GGML_QUANT_SIZES[kind]
    count = 2 if elements == 256 else 8
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in halves:
        blocks[:, at : at + 2] = random.normal(0, 0.1, (count, 1)).astype("<f2").view(np.uint8)
    if halves:
        # The smallest subnormal is a scale too.
        blocks[-1, halves[0] : halves[0] + 2] = [1, 0]
    else:
        blocks[:, 0] = [0, 1, 2, 100, 127, 128, 200, 250]
    values = dequantize(blocks.reshape(-1), kind).astype("<f4")
    out += struct.pack("<8sII", kind.name.encode(), count, values.size) + blocks.tobytes() + values.tobytes()
Path(__file__).with_name("blocks.bin").write_bytes(out)
