"""Writes tests/fixtures/kandinsky: a very small Kandinsky 2.2, the noise and the traces of runs on it.

    python kandinsky_fixtures.py            writes the files
    python kandinsky_fixtures.py --check    recomputes the traces, compares, writes nothing
"""

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

import karlo_files  # noqa: E402, F401  (first: it sets the environment)

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import kandinsky_folders  # noqa: E402
import kandinsky_reference  # noqa: E402
import folder_fixtures  # noqa: E402
from karlo_fixtures import PROMPTS, pictures  # noqa: E402

ROOT = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "kandinsky"

STEPS = (5, 5)

GUIDANCE = (4.0, 4.0)

#: What the pictures should not be like.
NEGATIVE = "a dog"

OPTIONS = {"size": "micro", "dtype": "f16", "shard_bytes": 80_000}

#: Folders beside the whole model that hold another U-Net for it, and the seed of its run.
CONTROLS = {"inpaint": 3, "hint": 4}

#: What stays of a U-Net's folder, and what is left out of its weights: the hint's network is as large as
#: the rest together, and made by a formula instead.
LEFT_OUT = "input_hint_block."

#: Width and height of pictures that are not square.
SIZE = (24, 16)


def autoencoder(movq, trace):
    """Single calls of the autoencoder, on latents of a size for which its pictures are not clamped
    throughout, as those of random networks are."""
    latent = trace["decoder.latent"] / trace["decoder.latent"].abs().max()
    picture = trace["decoder.image"]
    with torch.no_grad():
        return {
            "movq.input.latent": latent,
            "movq.output.picture": movq.decode(latent, force_not_quantize=True).sample,
            "movq.input.picture": picture,
            "movq.output.latent": movq.encode(picture).latents,
        }


def by_formula(unet):
    """Weights of the hint's network that need no file: value k of layer n is a sine."""
    layers = [layer for layer in unet.add_embedding.input_hint_block if isinstance(layer, torch.nn.Conv2d)]
    for index, layer in enumerate(layers):
        for parameter, scale in ((layer.weight, 3 / layer.weight[0].numel() ** 0.5), (layer.bias, 0.1)):
            steps = torch.arange(parameter.numel(), dtype=torch.float64)
            values = scale * torch.sin(0.7 * steps + index)
            parameter.data = values.reshape(parameter.shape).float()


def write_control(root, control):
    """Writes the U-Net's folder and the index of its pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        kandinsky_folders.write_folder(folder, **OPTIONS, control=control)
        decoder, target = Path(folder) / "decoder", root / control
        shutil.rmtree(target, ignore_errors=True)
        (target / "unet").mkdir(parents=True)
        shutil.copy(decoder / "model_index.json", target)
        shutil.copy(decoder / "unet" / "config.json", target / "unet")
        tensors = {}
        for path in sorted((decoder / "unet").glob("*.safetensors")):
            tensors.update(load_file(path))
        tensors = {name: value for name, value in tensors.items() if LEFT_OUT not in name}
        save_file(tensors, target / "unet" / "diffusion_pytorch_model.safetensors")


@contextlib.contextmanager
def with_control(root, control):
    """The pipelines of the model with another U-Net."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(root / "model", folder, dirs_exist_ok=True)
        decoder = Path(folder) / "decoder"
        shutil.rmtree(decoder / "unet")
        shutil.copytree(root / control, decoder, dirs_exist_ok=True)
        if control == "hint":
            file = decoder / "unet" / "diffusion_pytorch_model.safetensors"
            options = kandinsky_folders.SIZES[OPTIONS["size"]]["unet"] | kandinsky_folders.CONTROLS[control][1]
            unet = kandinsky_folders.UNet2DConditionModel(**options)
            by_formula(unet)
            made = {name: value for name, value in unet.state_dict().items() if LEFT_OUT in name}
            save_file({**load_file(file), **made}, file)
        yield kandinsky_reference.load(folder)


def controlled(root, settings):
    """Runs with other U-Nets: a part of a picture drawn anew, and a picture that follows another."""
    images = pictures()
    picture = images["wide"].crop((0, 0, 16, 16))
    mask = Image.new("L", (16, 16))
    mask.paste(255, (6, 4, 12, 10))
    inputs = {"inpaint": {"mask": mask}, "hint": {"hint": images["high"].crop((0, 0, 16, 16))}}
    for control, seed in CONTROLS.items():
        with with_control(root, control) as pipelines:
            noise, trace, _ = kandinsky_reference.run(
                pipelines, [picture], steps=STEPS, guidance=GUIDANCE, seed=seed, **inputs[control]
            )
            yield f"{control}.noise", noise, {**settings, "inputs": "wide.png", "seed": seed}
            yield f"{control}.trace", trace, {**settings, "inputs": "wide.png", "seed": seed}


def compute(root):
    """The files beside the folders: name, tensors, settings."""
    pipelines = kandinsky_reference.load(root / "model")

    def run(inputs, **options):
        return kandinsky_reference.run(pipelines, inputs, steps=STEPS, guidance=GUIDANCE, **options)

    settings = {"inputs": PROMPTS, "steps": STEPS, "guidance": GUIDANCE, "tables": "f64", "seed": 0}
    noise, trace, calls = run(PROMPTS)
    yield "text.noise", noise, settings
    yield "text.trace", trace, settings
    yield "text.calls", {**calls, **autoencoder(pipelines[1].movq, trace)}, settings
    noise, trace, _ = run(PROMPTS, negative=NEGATIVE, seed=1)
    yield "negative.noise", noise, {**settings, "negative": NEGATIVE, "seed": 1}
    yield "negative.trace", trace, {**settings, "negative": NEGATIVE, "seed": 1}
    images = pictures()
    noise, trace, _ = run(list(images.values()), seed=2)
    yield "variation.noise", noise, {**settings, "inputs": list(images), "seed": 2}
    yield "variation.trace", trace, {**settings, "inputs": list(images), "seed": 2}
    noise, trace, _ = run(PROMPTS, size=SIZE, seed=5)
    yield "sized.noise", noise, {**settings, "size": SIZE, "seed": 5}
    yield "sized.trace", trace, {**settings, "size": SIZE, "seed": 5}
    yield from controlled(root, settings)


def write_folders(root):
    """The whole model, and the other U-Nets."""
    kandinsky_folders.write_folder(root / "model", **OPTIONS)
    for control in CONTROLS:
        write_control(root, control)



if __name__ == "__main__":
    folder_fixtures.main(__doc__.splitlines()[0], ROOT, write_folders, compute)
