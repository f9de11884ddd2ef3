"""Runs diffusers' Stable unCLIP pipelines on a folder with recorded noise.

    python stable_reference.py --model DIR --prompt "a cat" --noise N.safetensors --trace T.safetensors
    python stable_reference.py --model DIR --images A.png --noise N.safetensors --trace T.safetensors

DIR is a folder as `stable_folders.py` writes it. Noise and trace are as in `karlo_reference.py`;
`decoder.augmentation` is the noise of the image embeddings. Tables of the schedulers are in f64 unless
`--tables f32` says otherwise.
"""

import argparse
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

import torch  # noqa: E402
from diffusers import (  # noqa: E402
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    PNDMScheduler,
    StableUnCLIPImg2ImgPipeline,
    StableUnCLIPPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import (  # noqa: E402
    pipeline_stable_unclip,
    pipeline_stable_unclip_img2img,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (  # noqa: E402
    StableUnCLIPImageNormalizer,
)
from diffusers.schedulers import scheduling_ddpm  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import (  # noqa: E402
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

import karlo_reference  # noqa: E402
from fixtures_core import cosine_betas  # noqa: E402
from karlo_reference import save, wrap  # noqa: E402
from kandinsky_reference import listen_to_decoding  # noqa: E402

#: The modules that draw random numbers.
DRAWING = (pipeline_stable_unclip, pipeline_stable_unclip_img2img, scheduling_ddpm)


class Noise(karlo_reference.Noise):
    """The prior's draws, the noise of the embeddings, and the start of the decoder, which draws no more."""

    drawing = DRAWING

    def __init__(self, steps, recorded=None, seed=0):
        super().__init__(steps, recorded, seed)
        self.names += ["decoder.augmentation", "decoder.initial"]


def exact(pipeline):
    """Replaces the f32 tables of the schedulers by the same in f64."""
    for name in ("scheduler", "image_noising_scheduler", "prior_scheduler"):
        part = getattr(pipeline, name, None)
        if part is None:
            continue
        config = part.config
        if config.beta_schedule == "squaredcos_cap_v2":
            betas = torch.tensor(cosine_betas(), dtype=torch.float64)
        else:
            assert config.beta_schedule == "scaled_linear"
            ends = config.beta_start**0.5, config.beta_end**0.5
            betas = torch.linspace(*ends, config.num_train_timesteps, dtype=torch.float64) ** 2
        part.betas, part.alphas = betas, 1 - betas
        part.alphas_cumprod = torch.cumprod(part.alphas, dim=0)
        if hasattr(part, "final_alpha_cumprod"):
            part.final_alpha_cumprod = part.alphas_cumprod[0]
        if hasattr(part, "one"):
            part.one = torch.tensor(1, dtype=torch.float64)
    return pipeline


def load(folder, tables="f64", sampler="pndm"):
    """The pipelines of captions, if there is a prior, and of pictures, computing in f32."""
    folder, f32 = Path(folder), {"dtype": torch.float32}
    text = StableUnCLIPPipeline.from_pretrained(folder, **f32) if (folder / "prior").is_dir() else None
    kinds = {
        "text_encoder": CLIPTextModel,
        "image_encoder": CLIPVisionModelWithProjection,
        "image_normalizer": StableUnCLIPImageNormalizer,
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
    }
    parts = {name: kind.from_pretrained(folder / name, **f32) for name, kind in kinds.items()}
    pictures = StableUnCLIPImg2ImgPipeline(
        **parts,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        feature_extractor=CLIPImageProcessor.from_pretrained(folder / "feature_extractor"),
        image_noising_scheduler=DDPMScheduler.from_pretrained(folder / "image_noising_scheduler"),
        scheduler=PNDMScheduler.from_pretrained(folder / "scheduler"),
    )
    pipelines = [text, pictures]
    for pipeline in filter(None, pipelines):
        pipeline.set_progress_bar_config(disable=True)
        if sampler == "ddim":
            pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        if tables == "f64":
            exact(pipeline)
    return pipelines


def run(
    pipelines,
    inputs,
    *,
    steps=(25, 20),
    guidance=(4.0, 10.0),
    negative=None,
    noise_level=0,
    seed=0,
    noise=None,
    size=None,
):
    """Runs a pipeline on prompts or pictures; gives noise, trace and single calls. Pictures have the empty
    prompt beside them."""
    variation = not isinstance(inputs[0], str)
    pipeline = pipelines[1 if variation else 0]
    trace, calls, undo, rows = {}, {}, [], len(inputs)

    def first_call(module, arguments, named, result):
        if "unet.output" not in calls:
            inputs = {"sample": arguments[0], "timestep": arguments[1], **named}
            found = {f"unet.input.{key}": value for key, value in inputs.items() if isinstance(value, torch.Tensor)}
            calls.update({**found, "unet.output": result[0]})

    def tokens(result):
        trace["text_encoder.tokens"] = result[0]

    def read_by_prior(result):
        half = rows if guidance[0] > 1 else 0
        pooled, states, mask = (value[half : half + rows] for value in result)
        trace.update(
            {"prior_text_encoder.pooled": pooled, "prior_text_encoder.tokens": states, "prior_text_encoder.mask": mask}
        )

    def image(result):
        half = slice(rows if variation and guidance[1] > 1 else 0, None)
        calls.setdefault("noised", result[half])

    def prior_done(result):
        trace["prior.embedding"] = result

    source = Noise({} if variation else {"prior": steps[0]}, noise, seed)
    undo.append(pipeline.unet.register_forward_hook(first_call, with_kwargs=True).remove)
    undo.append(wrap(pipeline, "encode_prompt", tokens))
    undo.append(wrap(pipeline, "noise_image_embeddings", image))
    undo.append(listen_to_decoding(pipeline.vae, trace))
    if variation:
        def seen(module, arguments, named, result):
            trace["image_encoder.pixels"] = arguments[0] if arguments else named["pixel_values"]
            trace["image_encoder.embedding"] = result.image_embeds

        undo.append(pipeline.image_encoder.register_forward_hook(seen, with_kwargs=True).remove)
    else:
        undo.append(wrap(pipeline, "_encode_prior_prompt", read_by_prior))
        undo.append(wrap(pipeline.prior, "post_process_latents", prior_done))
    width, height = size or [pipeline.unet.config.sample_size * pipeline.vae_scale_factor] * 2
    common = {
        "height": height,
        "width": width,
        "num_inference_steps": steps[1],
        "guidance_scale": guidance[1],
        "noise_level": noise_level,
        "negative_prompt": None if negative is None else [negative] * rows,
        "output_type": "pt",
    }
    try:
        with source.installed(), torch.no_grad():
            if variation:
                pipeline([picture.convert("RGB") for picture in inputs], [""] * rows, **common)
            else:
                own = {"prior_num_inference_steps": steps[0], "prior_guidance_scale": guidance[0]}
                pipeline(list(inputs), **own, **common)
    finally:
        for step in undo:
            step()
    # the pipeline divides by the scaling factor; what the decoder samples is before that
    trace["decoder.latent"] = trace["decoder.latent"] * pipeline.vae.config.scaling_factor
    return source.drawn, trace, calls


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", action="append", help="a prompt; can be repeated")
    source.add_argument("--images", type=Path, nargs="+", help="pictures to vary")
    parser.add_argument("--negative", help="a negative prompt")
    parser.add_argument("--noise-level", type=int, default=0, help="of image embeddings")
    parser.add_argument("--size", type=int, nargs=2, help="width and height")
    parser.add_argument("--noise", type=Path, required=True, help="draws: read if it exists, else written")
    parser.add_argument("--trace", type=Path, required=True, help="what the stages give each other")
    parser.add_argument("--prior-steps", type=int, default=25)
    parser.add_argument("--decoder-steps", type=int, default=20)
    parser.add_argument("--prior-guidance", type=float, default=4.0)
    parser.add_argument("--decoder-guidance", type=float, default=10.0)
    parser.add_argument("--sampler", choices=("pndm", "ddim"), default="pndm")
    parser.add_argument("--seed", type=int, default=0, help="of new draws")
    parser.add_argument("--tables", choices=("f32", "f64"), default="f64", help="of the schedulers")
    arguments = parser.parse_args()
    quiet()
    settings = {
        "steps": (arguments.prior_steps, arguments.decoder_steps),
        "guidance": (arguments.prior_guidance, arguments.decoder_guidance),
        "negative": arguments.negative,
        "noise_level": arguments.noise_level,
        "size": arguments.size,
    }
    inputs = arguments.prompt or [Image.open(path) for path in arguments.images]
    recorded = load_file(arguments.noise) if arguments.noise.exists() else None
    pipelines = load(arguments.model, arguments.tables, arguments.sampler)
    noise, trace, _ = run(pipelines, inputs, seed=arguments.seed, noise=recorded, **settings)
    if recorded is None:
        save(arguments.noise, noise, settings)
    save(arguments.trace, trace, settings)
    for name, value in trace.items():
        value = value.float()
        print(f"{name:26} {str(list(value.shape)):20} rms {value.square().mean().sqrt():.4f} max {value.abs().max():.4f}")


if __name__ == "__main__":
    main()
