"""Writes tests/fixtures/karlo: two very small folders, the noise and the traces of runs on them.

    python karlo_fixtures.py            writes the files
    python karlo_fixtures.py --check    recomputes the traces, compares, writes nothing

`tiny` makes pictures of prompts and is in f32, `variation` makes pictures of pictures and is in f16.
The schedulers have their tables in f64 (`karlo_reference.py --tables f64`); `trace_f32` holds what
the prior gives with diffusers' own.
"""

import sys
from pathlib import Path

sys.dont_write_bytecode = True

import karlo_files  # noqa: E402, F401  (first: it sets the environment)

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import karlo_folders  # noqa: E402
import karlo_reference  # noqa: E402
import folder_fixtures  # noqa: E402

ROOT = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "karlo"

#: With the padding token inside; cut off at the end of the context.
PROMPTS = ["a cat!", "a painting of two cats on the moon, highly detailed digital art"]

#: Steps of prior, decoder and super-resolution.
STEPS = (5, 5, 3)

GUIDANCE = (4.0, 8.0)

#: Networks of which a single call is kept. The last super-resolution network is like the first.
CALLS = ("prior.", "text_proj.", "decoder.", "super_res_first.")


def pictures():
    """Two pictures that are no squares, the second with an odd margin: waves and noise.

    Neither is more than twice as high as wide. Those Pillow resizes by columns first since version
    13, and by rows first before.
    """
    result = {}
    for name, (width, height) in {"wide": (41, 27), "high": (29, 53)}.items():
        rng = np.random.Generator(np.random.PCG64(width))
        y, x = np.mgrid[:height, :width]
        planes = [127 + 110 * np.sin(x / 5 + y / 9), 255 * ((x // 6 + y // 4) % 2), 255 * y / height]
        image = np.stack(planes, axis=-1) + rng.normal(0, 12, (height, width, 3))
        result[name] = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    return result


def run(folder, inputs, names, tables, **options):
    """One run of diffusers on a folder, and its settings for the metadata."""
    pipeline = karlo_reference.load_pipeline(folder)
    if tables == "f64":
        karlo_reference.exact_tables(pipeline)
    result = karlo_reference.run(pipeline, inputs, steps=STEPS, guidance=GUIDANCE, **options)
    return result, {"inputs": names, "steps": STEPS, "guidance": GUIDANCE, "tables": tables, "seed": 0}


def compute(root):
    """The files beside each folder: name, tensors, settings."""
    (noise, trace, _), settings = run(root / "tiny", PROMPTS, PROMPTS, "f64")
    yield "tiny.noise", noise, settings
    yield "tiny.trace", trace, settings
    (_, trace, _), settings = run(root / "tiny", PROMPTS, PROMPTS, "f32", noise=noise)
    key = "prior.embedding"
    yield "tiny.trace_f32", {key: trace[key]}, settings
    (_, _, calls), settings = run(root / "tiny", PROMPTS[:1], PROMPTS[:1], "f64")
    yield "tiny.calls", {key: value for key, value in calls.items() if key.startswith(CALLS)}, settings
    images = pictures()
    (noise, trace, _), settings = run(root / "variation", list(images.values()), list(images), "f64")
    yield "variation.noise", noise, settings
    yield "variation.trace", trace, settings


def write_folders(root):
    """The two folders."""
    for name, options in {"tiny": {}, "variation": {"variation": True, "dtype": "f16"}}.items():
        karlo_folders.write_folder(root / name, "micro", **options)


def write_pictures(root):
    """The pictures to vary."""
    for name, image in pictures().items():
        image.save(root / f"{name}.png")



if __name__ == "__main__":
    folder_fixtures.main(__doc__.splitlines()[0], ROOT, write_folders, compute, write_pictures)
