"""Writes tests/fixtures/adm: shapes of very small networks of ADM, and the traces of runs on them.

    ADM_SOURCE=guided-diffusion python adm_fixtures.py            writes the files
    ADM_SOURCE=guided-diffusion python adm_fixtures.py --check    recomputes the traces, compares, writes nothing

Weights and noise follow from their names (`hashed.py`): the tests make them again. Of small pictures, every
second pixel of every second row is kept, of large ones every eighth.
"""

import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

import karlo_files  # noqa: E402  (first: it sets the environment)

import torch  # noqa: E402
from adm_reference import SIZES, load, run, shapes, write_folder  # noqa: E402

import folder_fixtures  # noqa: E402
import hashed  # noqa: E402
from thinned import thinned  # noqa: E402

ROOT = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "adm"

STEPS = ("3", "2")

#: Sizes, classes and the classifier's scale.
RUNS = {
    "guided": ("micro", [3, 0], 1.5),
    "plain": ("micro", [4], 0.0),
    "odd": ("micro-odd", [2], 2.0),
}


def compute(root):
    """The files beside the folder: name, tensors, settings."""
    for name, (size, classes, scale) in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            write_folder(folder, size)
            models = load(folder, size)
        _, trace = run(models, classes, steps=STEPS, scale=scale)
        yield f"{name}.trace", thinned(trace), {"steps": STEPS, "classes": classes, "scale": scale}
        if name == "plain":
            yield "calls", calls(models), {}


def calls(models):
    """One call of each network: what it gives, thinned."""
    timesteps, label = torch.tensor([500]), torch.tensor([2])
    small, large = hashed.noise("call.small", (1, 3, 64, 64)), hashed.noise("call.large", (1, 3, 256, 256))
    low_res = ((small.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).float() / 127.5 - 1
    outputs = {
        "decoder": models["64x64_diffusion"](small, timesteps, label)[..., ::2, ::2],
        "classifier": models["64x64_classifier"](small, timesteps),
        "upsampler.0": models["64_256_upsampler"](large, timesteps, low_res, y=label)[..., ::8, ::8],
    }
    return {f"{name}.output": output for name, output in outputs.items()}


def write_folders(root):
    """The shapes of all tensors."""
    networks = {**SIZES["micro"], **SIZES["micro-odd"]}
    all_shapes = {name: shapes(name, arguments) for name, arguments in networks.items()}
    karlo_files.write_json(root / "shapes.json", all_shapes, indent=None)


if __name__ == "__main__":
    folder_fixtures.main(__doc__.splitlines()[0], ROOT, write_folders, compute)
