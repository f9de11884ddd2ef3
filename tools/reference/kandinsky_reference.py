"""Runs diffusers' Kandinsky 2.1 and 2.2 pipelines on folders with recorded noise.

    python kandinsky_reference.py --model DIR --prompt "a cat" --noise N.safetensors --trace T.safetensors
    python kandinsky_reference.py --model DIR --images A.png --noise N.safetensors --trace T.safetensors
    … --images A.png --mask M.png          of a decoder for inpainting: white is drawn
    … --hint H.png                         of one that follows a depth map

DIR holds the folders `decoder` and `prior`, as `kandinsky_folders.py` and `kandinsky21_folders.py` write
them. Noise and trace are as in `karlo_reference.py`; 2.2's scheduler also draws for the decoder's last
step, where the draw counts for 1e-10, and 2.1's draws for none. Tables of the schedulers are in f64 unless `--tables f32` says otherwise.
"""

import argparse
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

import torch  # noqa: E402
import diffusers  # noqa: E402
import numpy as np  # noqa: E402
from diffusers import DDIMScheduler, DDPMScheduler  # noqa: E402
from diffusers.pipelines.kandinsky import (  # noqa: E402
    pipeline_kandinsky,
    pipeline_kandinsky_inpaint,
    pipeline_kandinsky_prior,
)
from diffusers.pipelines.kandinsky2_2 import (  # noqa: E402
    pipeline_kandinsky2_2,
    pipeline_kandinsky2_2_controlnet,
    pipeline_kandinsky2_2_inpainting,
    pipeline_kandinsky2_2_prior,
)
from diffusers.schedulers import scheduling_ddpm, scheduling_unclip  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import karlo_reference  # noqa: E402
from karlo_reference import exact_tables, save, wrap  # noqa: E402

#: The modules that draw random numbers.
DRAWING = (
    pipeline_kandinsky,
    pipeline_kandinsky_inpaint,
    pipeline_kandinsky_prior,
    pipeline_kandinsky2_2,
    pipeline_kandinsky2_2_controlnet,
    pipeline_kandinsky2_2_inpainting,
    pipeline_kandinsky2_2_prior,
    scheduling_ddpm,
    scheduling_unclip,
)

#: The networks of which one call is recorded.
CALLS = ("prior", "unet")


class Noise(karlo_reference.Noise):
    """As Karlo's, with one draw more for the decoder, or with its first alone."""

    drawing = DRAWING

    def __init__(self, steps, recorded=None, seed=0, draws=True):
        super().__init__(steps if draws else {**steps, "decoder": 1}, recorded, seed)
        if draws:
            self.names.append(f"decoder.step.{steps['decoder'] - 1}")


def load(folder, tables="f64"):
    """The pipelines of prior and decoder, computing in f32."""
    pipelines = []
    for name in ("prior", "decoder"):
        index = json.loads((Path(folder) / name / "model_index.json").read_text())
        kind = getattr(diffusers, index["_class_name"])
        pipeline = kind.from_pretrained(Path(folder) / name, dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        pipelines.append(exact(pipeline) if tables == "f64" else pipeline)
    return pipelines


def exact(pipeline):
    """Replaces the f32 tables of the schedulers by the same in f64."""
    part = pipeline.scheduler
    if isinstance(part, (DDPMScheduler, DDIMScheduler)):
        config = part.config
        assert config.beta_schedule == "linear"
        part.betas = torch.linspace(
            config.beta_start, config.beta_end, config.num_train_timesteps, dtype=torch.float64
        )
        part.alphas = 1 - part.betas
        part.alphas_cumprod = torch.cumprod(part.alphas, dim=0)
        part.one = torch.tensor(1, dtype=torch.float64)
        if isinstance(part, DDIMScheduler):
            part.final_alpha_cumprod = part.one if config.set_alpha_to_one else part.alphas_cumprod[0]
        return pipeline
    return exact_tables(pipeline)


def listen_to_decoding(movq, trace):
    """Writes down what the autoencoder decodes; gives the function that undoes it."""
    original = movq.decode

    def decode(latent, **named):
        result = original(latent, **named)
        trace["decoder.latent"] = latent
        picture = result[0] if isinstance(result, tuple) else result["sample"]
        trace["decoder.image"] = picture.clamp(-1, 1)
        return result

    movq.decode = decode

    def undo():
        movq.decode = original

    return undo


def control_of(pixels, mask, hint, rows, height, width):
    """What the decoder's pipeline takes beside embeddings."""
    if mask is not None:
        white = torch.from_numpy(np.asarray(mask.convert("L")).copy() >= 128).float()[None, None]
        values = torch.from_numpy(np.asarray(pixels.convert("RGB")).copy()).permute(2, 0, 1)[None]
        return {"image": values.float() / 127.5 - 1, "mask_image": white}
    if hint is not None:
        hint = hint.convert("RGB").resize((width, height), Image.BICUBIC)
        values = torch.from_numpy(np.asarray(hint).copy()).permute(2, 0, 1)[None]
        return {"hint": values.float().div(255).repeat(rows, 1, 1, 1)}
    return {}


def run(
    pipelines,
    inputs,
    *,
    steps=(25, 100),
    guidance=(4.0, 4.0),
    negative=None,
    seed=0,
    noise=None,
    mask=None,
    hint=None,
    size=None,
):
    """Runs both pipelines on prompts or pictures; gives noise, trace and single calls. With a mask, the
    first picture is the one of which a part is drawn; `size` is width and height."""
    prior, decoder = pipelines
    trace, calls, undo = {}, {}, []
    variation = not isinstance(inputs[0], str)
    rows = len(inputs)

    def call(name):
        def after(module, arguments, named, result):
            if name in calls:
                return
            inputs = {**named, **({"hidden_states": arguments[0]} if arguments else {})}
            added = inputs.pop("added_cond_kwargs", {})
            output = result[0] if isinstance(result, tuple) else next(iter(result.values()))
            tensors = {f"input.{key}": value for key, value in {**inputs, **added}.items()}
            tensors["output"] = output
            calls[name] = {
                key: value for key, value in tensors.items() if isinstance(value, torch.Tensor)
            }

        return after

    def text(stage, is_guided):
        def after(result):
            # with guidance the prompts come second; negative prompts that are drawn follow them
            half = len(result[0]) // 2 if is_guided else 0
            names = (f"{stage}.{name}" for name in ("pooled", "tokens", "mask"))
            trace.update(zip(names, (value[half : half + rows] for value in result)))

        return after

    # 2.1's decoder reads captions by a tower of its own
    reads = hasattr(decoder, "text_encoder")
    captions = {}
    if reads:
        negatives = None if negative is None else [negative] * rows
        captions = {"prompt": [""] * rows if variation else list(inputs), "negative_prompt": negatives}
        undo.append(wrap(decoder, "_encode_prompt", text("text_encoder", guidance[1] > 1)))
    counts = {"decoder": steps[1]} if variation else dict(zip(("prior", "decoder"), steps))
    source = Noise(counts, noise, seed, draws=isinstance(decoder.scheduler, DDPMScheduler))
    undo.append(decoder.unet.register_forward_hook(call("unet"), with_kwargs=True).remove)
    undo.append(prior.prior.register_forward_hook(call("prior"), with_kwargs=True).remove)
    of_prior = "prior_text_encoder" if reads else "text_encoder"
    undo.append(wrap(prior, "_encode_prompt", text(of_prior, guidance[0] > 1)))
    try:
        with source.installed(), torch.no_grad():
            if variation:
                pixels = prior.image_processor(inputs, return_tensors="pt").pixel_values
                image = prior.image_encoder(pixels)["image_embeds"]
                trace.update({"image_encoder.pixels": pixels, "image_encoder.embedding": image})
                away = prior.get_zero_embed(rows)
            else:
                negatives = None if negative is None else [negative] * rows
                image, away = prior(
                    list(inputs),
                    negative_prompt=negatives,
                    num_inference_steps=steps[0],
                    guidance_scale=guidance[0],
                    return_dict=False,
                )
                trace["prior.embedding"] = image
            trace["prior.negative_embedding"] = away
            factor = decoder.movq_scale_factor
            side = decoder.unet.config.sample_size * factor
            # the pipeline rounds up to a multiple of the factor's square
            width, height = size or (side, side)
            hint_sides = [8 * side // factor for side in (height, width)]
            undo.append(listen_to_decoding(decoder.movq, trace))
            decoder(
                **captions,
                image_embeds=image,
                negative_image_embeds=away,
                height=height,
                width=width,
                num_inference_steps=steps[1],
                guidance_scale=guidance[1],
                output_type="pt",
                **control_of(inputs[0], mask, hint, rows, *hint_sides),
            )
    finally:
        for step in undo:
            step()
    flat = {f"{name}.{key}": value for name, tensors in calls.items() for key, value in tensors.items()}
    return source.drawn, trace, flat


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder with `decoder` and `prior`")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", action="append", help="a prompt; can be repeated")
    source.add_argument("--images", type=Path, nargs="+", help="pictures to vary")
    parser.add_argument("--negative", help="a negative prompt")
    parser.add_argument("--mask", type=Path, help="white where the first picture is drawn anew")
    parser.add_argument("--hint", type=Path, help="a picture that the result follows")
    parser.add_argument("--size", type=int, nargs=2, help="width and height")
    parser.add_argument("--noise", type=Path, required=True, help="draws: read if it exists, else written")
    parser.add_argument("--trace", type=Path, required=True, help="what the stages give each other")
    parser.add_argument("--prior-steps", type=int, default=25)
    parser.add_argument("--decoder-steps", type=int, default=100)
    parser.add_argument("--prior-guidance", type=float, default=4.0)
    parser.add_argument("--decoder-guidance", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0, help="of new draws")
    parser.add_argument("--tables", choices=("f32", "f64"), default="f64", help="of the schedulers")
    arguments = parser.parse_args()
    quiet()
    steps = (arguments.prior_steps, arguments.decoder_steps)
    guidance = (arguments.prior_guidance, arguments.decoder_guidance)
    inputs = arguments.prompt or [Image.open(path).convert("RGB") for path in arguments.images]
    opened = {
        name: Image.open(path) for name in ("mask", "hint") if (path := getattr(arguments, name)) is not None
    }
    recorded = load_file(arguments.noise) if arguments.noise.exists() else None
    noise, trace, _ = run(
        load(arguments.model, arguments.tables),
        inputs,
        steps=steps,
        guidance=guidance,
        negative=arguments.negative,
        seed=arguments.seed,
        noise=recorded,
        size=arguments.size,
        **opened,
    )
    settings = {"steps": steps, "guidance": guidance, "negative": arguments.negative}
    if recorded is None:
        save(arguments.noise, noise, settings)
    save(arguments.trace, trace, settings)
    for name, value in trace.items():
        value = value.float()
        print(f"{name:26} {str(list(value.shape)):20} rms {value.square().mean().sqrt():.4f} max {value.abs().max():.4f}")


if __name__ == "__main__":
    main()
