"""Writes tests/fixtures/glide: shapes of a very small GLIDE, its tokenizer, and the traces of runs on it.

    GLIDE_SOURCE=glide-text2im python glide_fixtures.py            writes the files
    GLIDE_SOURCE=glide-text2im python glide_fixtures.py --check    recomputes the traces, compares, writes nothing

Weights and noise follow from their names (`hashed.py`): the tests make them again. Of small pictures, every
second pixel of every second row is kept, of large ones every eighth.
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

import karlo_files  # noqa: E402, F401  (first: it sets the environment)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from glide_reference import (  # noqa: E402
    SIZES,
    encoder,
    load,
    run,
    shapes,
    tokens_of,
    write_folder,
    write_tokenizer,
)

import folder_fixtures  # noqa: E402
import hashed  # noqa: E402
from karlo_fixtures import PROMPTS, pictures  # noqa: E402
from thinned import thinned  # noqa: E402

ROOT = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "glide"

#: Of captions, and for parts of pictures.
SIZE, INPAINTING = "micro", "micro-odd"

STEPS = ("3", "2")

#: Captions whose tokens are compared.
CAPTIONS = [
    "",
    " ",
    "a cat",
    " a  cat on\tthe moon ",
    "A CAT!",
    "it's the dog's, isn't it",
    "красный кот",
    "猫 🐱 2024",
    "caf\u0065\u0301 caf\u00e9",
    "a <|endoftext|> b",
    "the cat and the dogs at the sea " * 10,
]


def compute(root):
    """The files beside the folder: name, tensors, settings."""
    with tempfile.TemporaryDirectory() as folder:
        plain, inpaint = Path(folder) / "plain", Path(folder) / "inpaint"
        write_folder(plain, SIZE)
        write_folder(inpaint, INPAINTING, inpaint=True)
        plain, inpaint = load(plain, SIZE), load(inpaint, INPAINTING)
    settings = {"steps": STEPS}
    mask = np.ones((64, 64), dtype=np.float32)
    mask[16:40, 24:48] = 0
    corner = pictures()["wide"].crop((0, 0, 16, 16))
    cases = {
        "text": (plain, PROMPTS, 3.0, None),
        "plain": (plain, PROMPTS[:1], 1.0, None),
        "inpaint": (inpaint, PROMPTS[:1], 5.0, (corner, mask)),
        "nothing": (inpaint, PROMPTS[:1], 1.0, None),
    }
    for name, (models, prompts, guidance, kept) in cases.items():
        _, trace = run(models, prompts, steps=STEPS, guidance=guidance, kept=kept)
        yield f"{name}.trace", thinned(trace), {**settings, "guidance": guidance}
    yield "calls", calls(*plain), {}


def calls(words, base, upsample):
    """One call of each U-Net: what it gives, thinned."""
    given = tokens_of(words, PROMPTS[:1], base.text_ctx)
    timesteps = torch.tensor([500])
    small, large = hashed.noise("call.small", (1, 3, 64, 64)), hashed.noise("call.large", (1, 3, 256, 256))
    low_res = ((small.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    outputs = {
        "decoder": base(small, timesteps, **given)[..., ::2, ::2],
        "upsampler.0": upsample(large, timesteps, low_res=low_res, **given)[..., ::8, ::8],
    }
    return {f"{name}.output": output for name, output in outputs.items()}


def write_folders(root):
    """The tokenizer, and the shapes of all tensors."""
    shutil.rmtree(root / "tokenizer", ignore_errors=True)
    write_tokenizer(root / "tokenizer", SIZES[SIZE]["merges"])
    words = encoder(root / "tokenizer")
    names = ("base", "upsample", "base_inpaint", "upsample_inpaint")
    sizes = {name: INPAINTING if name.endswith("inpaint") else SIZE for name in names}
    all_shapes = {name: shapes(name, size, words) for name, size in sizes.items()}
    karlo_files.write_json(root / "shapes.json", all_shapes, indent=None)
    rows = [words.padded_tokens_and_mask(words.encode(caption), SIZES[SIZE]["context"]) for caption in CAPTIONS]
    table = [{"text": text, "ids": ids, "len": sum(mask)} for text, (ids, mask) in zip(CAPTIONS, rows, strict=True)]
    karlo_files.write_json(root / "tokens.json", {"cases": table}, indent=None)


if __name__ == "__main__":
    folder_fixtures.main(__doc__.splitlines()[0], ROOT, write_folders, compute)
