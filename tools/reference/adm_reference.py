"""Runs ADM's own code (guided-diffusion) on a folder of its layout, with noise that follows from a seed.

    git clone https://github.com/openai/guided-diffusion && git -C guided-diffusion checkout 22e0df8
    ADM_SOURCE=guided-diffusion python adm_reference.py --size tiny --out DIR    writes a folder

The folder has random weights (`hashed.py`). Sizes are those below; `full-64` and `full-256` are published ones.
Networks and diffusion are ADM's own. What its scripts do around them is written here: guidance by the classifier,
and the 8 bits that an upsampler reads.
"""

import argparse
import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet, write_weights  # noqa: E402  (first: it sets the environment)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import hashed  # noqa: E402

SOURCE = os.environ.get("ADM_SOURCE")
if not SOURCE:
    sys.exit("ADM_SOURCE is not set: expected a checkout of https://github.com/openai/guided-diffusion (22e0df8)")
sys.path.insert(0, SOURCE)

from guided_diffusion import gaussian_diffusion  # noqa: E402
from guided_diffusion.script_util import create_gaussian_diffusion  # noqa: E402
from guided_diffusion.unet import EncoderUNetModel, SuperResModel, UNetModel  # noqa: E402

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def unet(channels, multiples, blocks, attention, classes, **heads):
    """The arguments of a U-Net: attention is how much smaller pictures are where there is some."""
    return {
        "in_channels": 3,
        "model_channels": channels,
        "out_channels": 6,
        "channel_mult": multiples,
        "num_res_blocks": blocks,
        "attention_resolutions": attention,
        "num_classes": classes or None,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        **heads,
    }


def classifier(channels, multiples, blocks, attention, classes):
    """The arguments of a classifier."""
    arguments = unet(channels, multiples, blocks, attention, None, num_head_channels=64)
    return {**arguments, "out_channels": classes, "pool": "attention"}


WIDE, FOUR = {"num_head_channels": 64}, {"num_heads": 4}
NEW = {**WIDE, "use_new_attention_order": True}

#: Files of each folder: the arguments of their networks.
SIZES = {
    # What the tests make.
    "micro": {
        "64x64_diffusion": unet(32, (1, 4), 1, (2,), 5, **NEW),
        "64x64_classifier": classifier(32, (1, 2, 4), 1, (4,), 5),
        "64_256_upsampler": unet(32, (1, 1, 1, 2), 1, (8,), 5, **FOUR),
    },
    "micro-odd": {
        "128x128_diffusion": unet(64, (0.5, 0.5, 1), 1, (4,), 0, **FOUR),
        "128x128_classifier": classifier(64, (0.5, 0.5, 1), 1, (4,), 3),
    },
    "tiny": {
        "64x64_diffusion": unet(64, (1, 2), 1, (2,), 7, **NEW),
        "64x64_classifier": classifier(64, (1, 2, 2), 2, (2, 4), 7),
        "64_256_upsampler": unet(32, (1, 1, 2, 2), 1, (8,), 7, **FOUR),
    },
    # heads of another order, no classes, the widths of the model for 512 pixels
    "odd": {
        "128x128_diffusion": unet(64, (0.5, 1, 2), 1, (4,), 0, **FOUR),
        "128x128_classifier": classifier(64, (0.5, 1, 1), 1, (4,), 9),
    },
    "small": {
        "64x64_diffusion": unet(64, (1, 2, 3, 4), 2, (2, 4, 8), 11, **NEW),
        "64x64_classifier": classifier(64, (1, 2, 3, 4), 2, (2, 4, 8), 11),
    },
    "full-64": {
        "64x64_diffusion": unet(192, (1, 2, 3, 4), 3, (2, 4, 8), 1000, **NEW),
        "64x64_classifier": classifier(128, (1, 2, 3, 4), 4, (2, 4, 8), 1000),
        "64_256_upsampler": unet(192, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), 1000, **FOUR),
    },
    "full-256": {
        "256x256_diffusion": unet(256, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), 1000, **WIDE),
        "256x256_classifier": classifier(128, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), 1000),
    },
}


def side(name):
    """Pictures of a file: their side."""
    return int(name.split("_")[1]) if name.endswith("upsampler") else int(name.split("x")[0])


def network(name, arguments):
    """A network, with whatever weights."""
    kind = UNetModel
    if name.endswith("classifier"):
        kind = EncoderUNetModel
        arguments = {key: value for key, value in arguments.items() if key != "num_classes"}
    elif name.endswith("upsampler"):
        kind = SuperResModel
    return kind(image_size=side(name), **arguments).eval()


def shapes(name, arguments):
    """The shape of every tensor of a network, without its memory."""
    with torch.device("meta"):
        return {key: list(value.shape) for key, value in network(name, arguments).state_dict().items()}


def write_folder(folder, chosen, dtype="f32"):
    """A folder of ADM's layout."""
    for name, arguments in SIZES[chosen].items():
        state = shapes(name, arguments)
        tensors = {key: hashed.weight(f"{name}.{key}", shape).to(DTYPES[dtype]) for key, shape in state.items()}
        write_weights(Path(folder) / f"{name}.safetensors", tensors)


def load_one(folder, name, chosen):
    """One network of a folder, in f32."""
    model = network(name, SIZES[chosen][name])
    state = {key: value.float() for key, value in load_file(Path(folder) / f"{name}.safetensors").items()}
    model.load_state_dict(state)
    return model


def load(folder, chosen):
    """The networks of a folder by name, in f32."""
    return {name: load_one(folder, name, chosen) for name in SIZES[chosen]}


class Draws:
    """Every draw of a run, by name: recorded ones, or those that follow from the seed."""

    def __init__(self, seed=0, recorded=None):
        self.seed = seed
        self.recorded = recorded
        self.drawn = {}

    def __call__(self, name, shape):
        recorded = self.recorded
        value = hashed.noise(f"{self.seed}.{name}", tuple(shape)) if recorded is None else recorded[name]
        self.drawn[name] = value
        return value


def run(models, classes, *, steps, scale, seed=0, noise=None):
    """One run of each network. `classes` has one for each picture; `steps` those of the U-Net and of the upsampler, as
    ADM spells them; `scale` is that of the classifier. Gives the noise and the trace."""
    draws, trace, rows = Draws(seed, noise), {}, len(classes)
    names = {name.rsplit("_", 1)[1]: name for name in models}
    labels = torch.tensor(classes)

    def sample(stage, name, steps, conditions, cond_fn=None):
        schedule = "cosine" if name == "64x64_diffusion" else "linear"
        diffusion = create_gaussian_diffusion(
            steps=1000, learn_sigma=True, noise_schedule=schedule, timestep_respacing=steps
        )
        shape = (rows, 3, side(name), side(name))
        state = {"step": 0}

        def randn_like(x):
            step = state["step"]
            state["step"] += 1
            last = step + 1 == diffusion.num_timesteps
            return torch.zeros_like(x) if last else draws(f"{stage}.step.{step}", shape)

        start = draws(f"{stage}.initial", shape)
        original, gaussian_diffusion.th.randn_like = gaussian_diffusion.th.randn_like, randn_like
        try:
            trace[f"{stage}.image"] = diffusion.p_sample_loop(
                lambda x, t, y=None: models[name](x, t, **conditions),
                shape,
                noise=start,
                clip_denoised=True,
                device="cpu",
                cond_fn=cond_fn,
                model_kwargs={"y": labels} if cond_fn else {},
            )
        finally:
            gaussian_diffusion.th.randn_like = original
        return trace[f"{stage}.image"]

    def cond_fn(x, t, y=None):
        with torch.enable_grad():
            x_in = x.detach().requires_grad_(True)
            log_probs = F.log_softmax(models[names["classifier"]](x_in, t), dim=-1)
            return torch.autograd.grad(log_probs[range(rows), y].sum(), x_in)[0] * scale

    drawing = names["diffusion"]
    own = {"y": labels} if models[drawing].num_classes else {}
    small = sample("decoder", drawing, steps[0], own, cond_fn if scale else None)
    if "upsampler" in names:
        bits = ((small + 1) * 127.5).clamp(0, 255).to(torch.uint8)
        conditions = {"y": labels, "low_res": bits.float() / 127.5 - 1}
        sample("upsampler.0", names["upsampler"], steps[1], conditions)
    return draws.drawn, trace


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    quiet()
    write_folder(asked.out, asked.size, asked.dtype)
