"""Values that follow from a name: weights and noise that need no file, in Python and in the tests alike.

The number at place i of the tensor `name` is that of SplitMix64 whose state starts at FNV-1a of the name, as
24 bits in [-1, 1). `tests/hashed.rs` computes the same to the last bit.
"""

import math

import numpy as np
import torch


def uniform(name, shape):
    """Values from -1 to 1, in f64."""
    start = 0xCBF29CE484222325
    for byte in name.encode():
        start = ((start ^ byte) * 0x100000001B3) % 2**64
    steps = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed = np.uint64(start) + steps * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(40)).astype(np.float64) / 2**23 - 1).reshape(shape)


def weight(name, shape):
    """A parameter: gains and deviations around 1, small biases, tables of embeddings, and matrices that keep the variance."""
    values = uniform(name, shape)
    if name.endswith(("std", ".g")):
        values = 1 + 0.2 * values
    elif len(shape) == 1:
        values = 1 + 0.2 * values if name.endswith("weight") else 0.2 * values
    elif any(part in name for part in ("embedding", "label_emb", "null_text", "null_image")):
        values = 0.8 * values
    else:
        values = values * math.sqrt(3 / math.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def noise(name, shape):
    """A draw: not normal, but of variance 1."""
    return torch.from_numpy((uniform(name, shape) * math.sqrt(3)).astype(np.float32))
