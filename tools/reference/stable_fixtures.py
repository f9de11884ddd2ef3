"""Writes tests/fixtures/stable: a very small Stable unCLIP, the noise and the traces of runs on it.

    python stable_fixtures.py            writes the files
    python stable_fixtures.py --check    recomputes the traces, compares, writes nothing
"""

import sys
from pathlib import Path

sys.dont_write_bytecode = True

import karlo_files  # noqa: E402, F401  (first: it sets the environment)

import torch  # noqa: E402

import stable_folders  # noqa: E402
import stable_reference  # noqa: E402
import folder_fixtures  # noqa: E402
from karlo_fixtures import PROMPTS, pictures  # noqa: E402

ROOT = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "stable"

STEPS = (5, 6)

#: What the pictures should not be like.
NEGATIVE = "a dog"

#: Guidance is small: random weights make latents that are too large as it is.
RUNS = {
    "text": ({}, {"guidance": (4.0, 3.0), "seed": 0}),
    "negative": ({}, {"guidance": (4.0, 3.0), "negative": NEGATIVE, "noise_level": 300, "seed": 1}),
    "variation": ({}, {"guidance": (4.0, 3.0), "noise_level": 20, "seed": 2}),
    "plain": ({}, {"guidance": (1.0, 1.0), "seed": 3}),
    "sized": ({}, {"guidance": (4.0, 3.0), "size": (24, 16), "seed": 4}),
    "ddim": ({"sampler": "ddim"}, {"guidance": (4.0, 3.0), "seed": 5}),
}

OPTIONS = {"size": "micro", "dtype": "f16", "shard_bytes": 80_000}


def compute(root):
    """The files beside the folder: name, tensors, settings."""
    for name, (how, options) in RUNS.items():
        pipelines = stable_reference.load(root / "model", **how)
        inputs = list(pictures().values()) if name == "variation" else PROMPTS
        noise, trace, calls = stable_reference.run(pipelines, inputs, steps=STEPS, **options)
        settings = {"steps": STEPS, "tables": "f64", **how, **options}
        yield f"{name}.noise", noise, settings
        yield f"{name}.trace", trace, settings
        if name == "text":
            yield "text.calls", {**calls, **autoencoder(pipelines[0].vae, trace)}, settings


def autoencoder(vae, trace):
    """Single calls of the autoencoder, on latents of a size for which its pictures are not clamped
    throughout, as those of random networks are."""
    latent = trace["decoder.latent"] / trace["decoder.latent"].abs().max()
    picture = trace["decoder.image"]
    factor = vae.config.scaling_factor
    with torch.no_grad():
        return {
            "vae.input.latent": latent,
            "vae.output.picture": vae.decode(latent / factor).sample,
            "vae.input.picture": picture,
            "vae.output.latent": vae.encode(picture).latent_dist.mean * factor,
        }


def write_folders(root):
    """The model."""
    stable_folders.write_folder(root / "model", **OPTIONS)



if __name__ == "__main__":
    folder_fixtures.main(__doc__.splitlines()[0], ROOT, write_folders, compute)
