"""Fixtures of unclip-clip: both towers, the contrastive loss, image preprocessing, the tokenizer."""

import json
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

import bpe
from common import Fixture, versions

SCRIPT = "fixtures_clip.py"
CRATE = "unclip-clip"

IMAGE_MEAN = [0.48145466, 0.4578275, 0.40821073]
IMAGE_STD = [0.26862954, 0.26130258, 0.27577711]


def files():
    """Paths and contents of all fixtures of the crate."""
    for activation in ("quick_gelu", "gelu"):
        yield text(activation).file()
        yield vision(activation).file()
    yield contrastive_loss().file()
    yield preprocess().file()
    yield from tokenizer_files()


def text(activation):
    """The text tower. The pooled position is that of the largest id (the end token)."""
    config = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 12,
        "projection_dim": 24,
        "hidden_act": activation,
        "bos_token_id": 0,
        "eos_token_id": 2,  # as in the published configurations: selects pooling by argmax
        "pad_token_id": 1,
    }
    fixture = Fixture(SCRIPT, CRATE, f"text_{activation}", config)
    module = fixture.weights(CLIPTextModelWithProjection(CLIPTextConfig(**config)))
    # 62 starts and 63 ends a text; padding is 0. Id 2 occurs as an ordinary token.
    ids = torch.tensor(
        [
            [62, 5, 17, 2, 40, 63, 0, 0, 0, 0, 0, 0],
            [62, 63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [62, 2, 9, 9, 31, 0, 7, 58, 61, 12, 33, 63],
        ]
    )
    fixture.input("input_ids", ids)
    result = module(input_ids=ids)
    fixture.output("pooled", result.text_embeds)
    fixture.output("tokens", result.last_hidden_state)
    return fixture


def vision(activation):
    """The image tower."""
    config = {
        "image_size": 16,
        "patch_size": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 24,
        "hidden_act": activation,
    }
    fixture = Fixture(SCRIPT, CRATE, f"vision_{activation}", config)
    module = fixture.weights(CLIPVisionModelWithProjection(CLIPVisionConfig(**config)))
    pixels = fixture.input("pixel_values", fixture.randn(2, 3, 16, 16))
    result = module(pixel_values=pixels)
    fixture.output("image_embeds", result.image_embeds)
    fixture.output("tokens", result.last_hidden_state)
    return fixture


def contrastive_loss():
    """The symmetric loss: both cross entropies of exp(scale) * cosine similarity, averaged."""
    fixture = Fixture(SCRIPT, CRATE, "contrastive_loss", {"logit_scale": "natural logarithm"})
    image = fixture.input("image_features", fixture.randn(5, 24))
    text_noise = fixture.randn(5, 24)
    text_features = fixture.input("text_features", 0.5 * image + text_noise)
    scale = fixture.input("logit_scale", torch.tensor(math.log(1 / 0.07), dtype=torch.float32))
    leaves = [value.double().requires_grad_() for value in (image, text_features, scale)]
    with torch.enable_grad():
        logits = leaves[2].exp() * F.normalize(leaves[0]) @ F.normalize(leaves[1]).T
        target = torch.arange(5)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        loss.backward()
    fixture.output("logits_per_image", logits.detach().float())
    fixture.output("loss", loss.detach().float())
    for name, leaf in zip(("image_features", "text_features", "logit_scale"), leaves):
        fixture.output(f"grad_{name}", leaf.grad.float())
    return fixture


def preprocess():
    """From 8-bit pixels to normalised ones: cropped or squashed, in floats or through 8 bits."""
    size = 16
    config = {
        "size": size,
        "mean": IMAGE_MEAN,
        "std": IMAGE_STD,
        "crop": "shortest edge to size (long edge rounded down), centre crop (offset rounded down)",
        "squash": "whole image to size x size",
        "u8": "crop: resized by Pillow, which rounds to 8 bits after each direction, as diffusers' "
        "processor does; crop_narrow: of the first size + 2 columns; squash: rounded half to even and clamped to 0..255 before rescaling",
    }
    fixture = Fixture(SCRIPT, CRATE, "preprocess", config)
    height, width = 40, 30
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = np.stack([rows * 5.0, columns * 7.0, (rows + 2 * columns) * 2.0], axis=-1)
    noise = fixture.rng.integers(-60, 61, size=(height, width, 3))
    pixels = torch.from_numpy(np.clip(smooth + noise, 0, 255).astype(np.int64))
    fixture.input("image", pixels)  # height, width, channel

    image = pixels.permute(2, 0, 1)[None].to(torch.float32)
    mean = torch.tensor(IMAGE_MEAN)[:, None, None]
    std = torch.tensor(IMAGE_STD)[:, None, None]
    for name in ("crop", "squash"):
        new_size = (size, size) if name == "squash" else (size * height // width, size)
        resized = F.interpolate(
            image, size=new_size, mode="bicubic", align_corners=False, antialias=True
        )
        top = (new_size[0] - size) // 2
        eight_bit = by_pillow(pixels, new_size) if name == "crop" else resized.round().clamp(0, 255)
        for suffix, values in (("", resized), ("_u8", eight_bit)):
            values = values[:, :, top : top + size]
            fixture.output(f"{name}{suffix}", (values / 255 - mean) / std)
    # more than twice as high as wide, which Pillow resizes in another order
    narrow = size + 2
    tall = size * height // narrow
    values = by_pillow(pixels[:, :narrow], (tall, size))[:, :, (tall - size) // 2 :][:, :, :size]
    fixture.output("crop_narrow_u8", (values / 255 - mean) / std)
    return fixture


def by_pillow(pixels, new_size):
    """[height, width, 3] to [1, 3, *new_size] by Pillow's bicubic resizing."""
    image = Image.fromarray(pixels.numpy().astype(np.uint8))
    resized = np.asarray(image.resize(new_size[::-1], Image.Resampling.BICUBIC))
    return torch.from_numpy(resized.astype(np.float32)).permute(2, 0, 1)[None]


def tokenizer_files():
    """A small vocabulary in the layout of CLIP's and what the tokenizer makes of many strings."""
    folder = f"{CRATE}/tests/fixtures/tokenizer"
    vocabulary, merges = bpe.train()
    vocab_json = json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")) + "\n"
    merges_txt = "".join(["#version: 0.2\n"] + [f"{left} {right}\n" for left, right in merges])
    table = {
        "script": f"tools/reference/{SCRIPT}",
        **versions(),
        "config": bpe.CONFIG,
        "cases": bpe.table(vocab_json, merges_txt),
    }
    lines = ",\n".join(json.dumps(case) for case in table.pop("cases"))
    head = json.dumps(table, indent=0)[:-2]
    table_json = f'{head},\n"cases": [\n{lines}\n]\n}}\n'
    for name, content in (
        ("vocab.json", vocab_json),
        ("merges.txt", merges_txt),
        ("table.json", table_json),
    ):
        yield f"{folder}/{name}", content.encode()
