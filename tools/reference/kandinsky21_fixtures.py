"""Writes tests/fixtures/kandinsky21: a very small Kandinsky 2.1, the noise and the traces of runs on it.

    python kandinsky21_fixtures.py            writes the files
    python kandinsky21_fixtures.py --check    recomputes the traces, compares, writes nothing

The autoencoder is that of tests/fixtures/kandinsky, which 2.1 and 2.2 share: its folder is not written
again.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

import karlo_files  # noqa: E402, F401  (first: it sets the environment)

from PIL import Image  # noqa: E402
from transformers import XLMRobertaTokenizer  # noqa: E402

import folder_fixtures  # noqa: E402
import kandinsky21_folders  # noqa: E402
import kandinsky_reference  # noqa: E402
from karlo_fixtures import PROMPTS, pictures  # noqa: E402

ROOT = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "kandinsky21"

STEPS = (5, 5)

#: Random weights make latents that are too large as it is.
GUIDANCE = (4.0, 3.0)

NEGATIVE = "a dog"

OPTIONS = {"size": "micro", "dtype": "f16", "shard_bytes": 80_000}

#: Captions whose tokens are compared.
CAPTIONS = [
    "",
    "a cat",
    " a  cat on\tthe moon ",
    "A CAT!",
    "красный кот на большом синем квадрате",
    "月の上の二匹の猫",
    "猫 🐱",
    "Ａ ﬁne cat™…",
    "caf\u0065\u0301 caf\u00e9",
    "a\u00a0cat\u200b here",
    "a <pad> cat </s> on <mask> the <unk> moon <s>",
    "▁a▁cat",
    "qué bonito " * 40,
    "\u0000a\u0007cat\ufeff",
]


def complete(root, folder, control=None):
    """A whole model in `folder`: its autoencoder is another fixture's."""
    shutil.copytree(root / "model", folder, dirs_exist_ok=True)
    decoder = Path(folder) / "decoder"
    shutil.copytree(ROOT.parent / "kandinsky" / "model" / "decoder" / "movq", decoder / "movq")
    if control:
        shutil.rmtree(decoder / "unet")
        shutil.copytree(root / control, decoder, dirs_exist_ok=True)
    return folder


def compute(root):
    """The files beside the folders: name, tensors, settings."""
    images = pictures()
    corner = images["wide"].crop((0, 0, 16, 16))
    mask = Image.new("L", (16, 16))
    mask.paste(255, (6, 4, 12, 10))
    runs = {
        "text": (PROMPTS, {}),
        "negative": (PROMPTS, {"negative": NEGATIVE}),
        "variation": (list(images.values()), {}),
        "inpaint": ([corner], {"mask": mask}),
    }
    for seed, (name, (inputs, asked)) in enumerate(runs.items()):
        with tempfile.TemporaryDirectory() as folder:
            control = name if name == "inpaint" else None
            pipelines = kandinsky_reference.load(complete(root, folder, control))
        noise, trace, calls = kandinsky_reference.run(
            pipelines, inputs, steps=STEPS, guidance=GUIDANCE, seed=seed, **asked
        )
        settings = {"steps": STEPS, "guidance": GUIDANCE, "tables": "f64", "seed": seed}
        yield f"{name}.noise", noise, settings
        yield f"{name}.trace", trace, settings
        if name == "text":
            calls = {key: value for key, value in calls.items() if key.startswith("unet.")}
            yield "text.calls", calls, settings


def write_folders(root):
    """The model without its autoencoder, and the U-Net for inpainting."""
    with tempfile.TemporaryDirectory() as folder:
        whole, inpaint = Path(folder) / "whole", Path(folder) / "inpaint"
        kandinsky21_folders.write_folder(whole, **OPTIONS)
        kandinsky21_folders.write_folder(inpaint, **OPTIONS, control="inpaint")
        shutil.rmtree(whole / "decoder" / "movq")
        for name in ("model", "inpaint"):
            shutil.rmtree(root / name, ignore_errors=True)
        shutil.copytree(whole, root / "model")
        shutil.copytree(inpaint / "decoder" / "unet", root / "inpaint" / "unet")
        shutil.copy(inpaint / "decoder" / "model_index.json", root / "inpaint")


def write_tokens(root):
    """Captions, and their tokens by transformers."""
    tokenizer = XLMRobertaTokenizer.from_pretrained(root / "model" / "decoder" / "tokenizer")
    asked = {"padding": "max_length", "max_length": 77, "truncation": True}
    cases = []
    for caption in CAPTIONS:
        row = tokenizer(caption, **asked)
        cases.append({"text": caption, "ids": row.input_ids, "len": sum(row.attention_mask)})
    (root / "tokens.json").write_text(json.dumps({"cases": cases}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    folder_fixtures.main(__doc__.splitlines()[0], ROOT, write_folders, compute, write_tokens)
