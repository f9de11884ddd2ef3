"""Runs diffusers' unCLIP pipelines on a folder with recorded noise.

    python karlo_reference.py --model DIR --prompts FILE.txt --noise N.safetensors --trace T.safetensors
    python karlo_reference.py --model DIR --images A.png B.png --noise N.safetensors --trace T.safetensors

The noise file is written if it does not exist and used if it does. It holds every Gaussian draw in
order: `<stage>.initial`, `<stage>.step.0`, ... for the stages `prior`, `decoder` and `upsampler.0`,
one row for each picture; the last step of a stage draws nothing. The trace holds what the stages
give each other; `--calls` writes the inputs and outputs of single network calls.

`--tables f64` gives the schedulers their tables in f64. In f32, as they are, the last step of every
stage multiplies its result by 0.99947 where 1 is right, because 1 - alpha bar loses its digits there.

The pipeline is diffusers' own. Only its source of random numbers is replaced, and what passes
between its parts is written down.
"""

import argparse
import json
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

import diffusers  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from diffusers import UnCLIPImageVariationPipeline, UnCLIPPipeline, UnCLIPScheduler  # noqa: E402
from diffusers.pipelines.deprecated.unclip import (  # noqa: E402
    pipeline_unclip,
    pipeline_unclip_image_variation,
    text_proj,
)
from diffusers.schedulers import scheduling_unclip  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from fixtures_core import TRAIN_STEPS, cosine_betas  # noqa: E402

#: The modules that draw random numbers.
DRAWING = (pipeline_unclip, pipeline_unclip_image_variation, scheduling_unclip)

#: The networks of which one call is recorded, with the number of the call. The last
#: super-resolution network has only one; the others have one for each step.
CALLS = {"prior": 1, "text_proj": 0, "decoder": 1, "super_res_first": 1, "super_res_last": 0}


class Noise:
    """Hands out the draws of one run in their order: recorded ones, or new ones by `seed`.

    A new draw depends on the seed and its name only.
    """

    #: The modules that draw.
    drawing = DRAWING

    def __init__(self, steps, recorded=None, seed=0):
        self.names = []
        for stage, count in steps.items():
            self.names += [f"{stage}.initial", *(f"{stage}.step.{index}" for index in range(count - 1))]
        self.recorded = recorded
        self.seed = seed
        self.drawn = {}

    def __call__(self, shape, generator=None, device=None, dtype=None, layout=None):
        """Stands in for diffusers' `randn_tensor`."""
        name = self.names[len(self.drawn)]
        shape = tuple(shape)
        if self.recorded is None:
            rng = np.random.Generator(np.random.PCG64([self.seed, zlib.crc32(name.encode())]))
            value = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        else:
            value = self.recorded[name]
        assert tuple(value.shape) == shape, f"{name} is {tuple(value.shape)}, the pipeline asks for {shape}"
        self.drawn[name] = value
        return value.to(dtype)

    @contextmanager
    def installed(self):
        """Replaces the random numbers of the pipelines, and sees that all were used."""
        original = self.drawing[0].randn_tensor
        for module in self.drawing:
            module.randn_tensor = self
        try:
            yield
        finally:
            for module in self.drawing:
                module.randn_tensor = original
        assert list(self.drawn) == self.names, "not every recorded draw was used"


def load_pipeline(folder):
    """The pipeline of a folder, computing in f32 whatever the type of its files."""
    index = json.loads((Path(folder) / "model_index.json").read_text())
    kind = {"UnCLIPPipeline": UnCLIPPipeline, "UnCLIPImageVariationPipeline": UnCLIPImageVariationPipeline}
    # The published index names the module of the text projection `unclip`. Since the pipelines were
    # moved, diffusers only finds it where a module of that name has been imported.
    sys.modules.setdefault("unclip", text_proj)
    pipeline = kind[index["_class_name"]].from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def exact_tables(pipeline):
    """Replaces the f32 tables of the schedulers by the same in f64; all else still runs in f32."""
    for part in pipeline.components.values():
        if isinstance(part, UnCLIPScheduler):
            assert part.config.num_train_timesteps == TRAIN_STEPS
            part.betas = torch.tensor(cosine_betas(), dtype=torch.float64)
            part.alphas = 1 - part.betas
            part.alphas_cumprod = torch.cumprod(part.alphas, dim=0)
            part.one = torch.tensor(1, dtype=torch.float64)
    return pipeline


def perturb(pipeline, relative, seed):
    """Moves every weight of the pipeline by `relative` of itself, up or down at random."""
    generator = torch.Generator().manual_seed(seed)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            for parameter in part.parameters():
                sign = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
                parameter.data.mul_(1 + relative * sign.to(parameter.dtype))
    return pipeline


def wrap(owner, name, after):
    """Calls `after(result)` whenever `owner.name(...)` returns; gives the function that undoes it."""
    original = getattr(owner, name)

    def wrapped(*arguments, **named):
        result = original(*arguments, **named)
        after(result)
        return result

    setattr(owner, name, wrapped)
    return lambda: delattr(owner, name)


class Recorder:
    """Writes down what passes between the parts of a pipeline while it runs."""

    def __init__(self, pipeline, rows):
        self.trace = {}
        self.calls = {}
        self.seen = dict.fromkeys(CALLS, 0)
        self.rows = rows
        self.undo = [
            wrap(pipeline, "_encode_prompt", self.text),
            wrap(pipeline.decoder_scheduler, "step", self.picture("decoder.image")),
            wrap(pipeline.super_res_scheduler, "step", self.picture("upsampler.0.image")),
        ]
        if hasattr(pipeline, "prior"):
            self.undo.append(wrap(pipeline.prior, "post_process_latents", self.keep("prior.embedding")))
        else:
            self.undo.append(wrap(pipeline, "_encode_image", self.keep("image_encoder.embedding")))
            hook = pipeline.image_encoder.register_forward_pre_hook(self.pixels)
            self.undo.append(hook.remove)
        for name in CALLS:
            if hasattr(pipeline, name):
                network = getattr(pipeline, name)
                self.undo.append(network.register_forward_hook(self.call(name), with_kwargs=True).remove)

    def keep(self, name):
        def after(value):
            self.trace[name] = value

        return after

    def text(self, result):
        """Of the text conditions, the rows of the prompts: with guidance, the second half."""
        pooled, tokens, mask = (value[-self.rows :] for value in result)
        self.trace.update({"text_encoder.pooled": pooled, "text_encoder.tokens": tokens, "text_encoder.mask": mask})

    def picture(self, name):
        """The sample after the latest step, in the range of pixels, as the pipeline clamps it."""

        def after(result):
            self.trace[name] = result.prev_sample.clamp(-1, 1)

        return after

    def pixels(self, module, arguments):
        (pixels,) = arguments
        self.trace["image_encoder.pixels"] = pixels.repeat_interleave(self.rows // len(pixels), dim=0)

    def call(self, name):
        def after(module, arguments, named, result):
            if self.seen[name] == CALLS[name]:
                inputs = {**named, **({"hidden_states": arguments[0]} if arguments else {})}
                outputs = result if isinstance(result, dict) else {"tokens": result[0], "time": result[1]}
                for kind, values in (("input", inputs), ("output", outputs)):
                    tensors = {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}
                    self.calls.update({f"{name}.{kind}.{key}": value for key, value in tensors.items()})
            self.seen[name] += 1

        return after

    def finish(self):
        """Takes the hooks off."""
        for undo in self.undo:
            undo()


def run(
    pipeline,
    inputs,
    *,
    steps=(25, 25, 7),
    guidance=(4.0, 8.0),
    per_input=1,
    seed=0,
    noise=None,
):
    """Runs `pipeline` on prompts or pictures; gives noise, trace and single calls.

    `steps` are those of prior, decoder and super-resolution, `guidance` the scales of prior and
    decoder. An image-variation pipeline has no use for the first of each. `noise` are recorded
    draws; without them new ones are made by `seed`.
    """
    variation = not hasattr(pipeline, "prior")
    counts = dict(zip(("prior", "decoder", "upsampler.0"), steps))
    options = {"prior_num_inference_steps": steps[0], "prior_guidance_scale": guidance[0]}
    if variation:
        del counts["prior"]
        options = {}
    source = Noise(counts, noise, seed)
    recorder = Recorder(pipeline, len(inputs) * per_input)
    try:
        with source.installed():
            result = pipeline(
                list(inputs),
                num_images_per_prompt=per_input,
                decoder_num_inference_steps=steps[1],
                super_res_num_inference_steps=steps[2],
                decoder_guidance_scale=guidance[1],
                output_type="np",
                **options,
            )
    finally:
        recorder.finish()
    picture = recorder.trace["upsampler.0.image"].permute(0, 2, 3, 1).numpy() * 0.5 + 0.5
    assert np.abs(picture - result.images).max() < 1e-6, "the trace is not what the pipeline gives"
    return source.drawn, recorder.trace, recorder.calls


def save(path, tensors, settings):
    """Writes tensors as f32, flags and timesteps too, with the settings of the run as metadata."""
    versions = {"torch": torch.__version__.split("+")[0], "diffusers": diffusers.__version__}
    settings = {**settings, **versions, "transformers": transformers.__version__}
    # One entry only: the order of several would differ from run to run.
    metadata = {"settings": json.dumps(settings, sort_keys=True)}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.float().clone().contiguous() for name, value in tensors.items()}, path, metadata)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder in the diffusers layout")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompts", type=Path, help="text file, one prompt a line")
    source.add_argument("--prompt", action="append", help="a prompt; can be repeated")
    source.add_argument("--images", type=Path, nargs="+", help="pictures, for an image-variation folder")
    parser.add_argument("--per-input", type=int, default=1, help="pictures of each prompt or image")
    parser.add_argument("--noise", type=Path, required=True, help="draws: read if it exists, else written")
    parser.add_argument("--trace", type=Path, required=True, help="what the stages give each other")
    parser.add_argument("--calls", type=Path, help="inputs and outputs of single network calls")
    parser.add_argument("--prior-steps", type=int, default=25)
    parser.add_argument("--decoder-steps", type=int, default=25)
    parser.add_argument("--upsampler-steps", type=int, default=7)
    parser.add_argument("--prior-guidance", type=float, default=4.0)
    parser.add_argument("--decoder-guidance", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0, help="of new draws")
    parser.add_argument("--tables", choices=("f32", "f64"), default="f32", help="of the schedulers")
    arguments = parser.parse_args()

    quiet()
    steps = (arguments.prior_steps, arguments.decoder_steps, arguments.upsampler_steps)
    guidance = (arguments.prior_guidance, arguments.decoder_guidance)
    if arguments.images:
        names = [path.name for path in arguments.images]
        inputs = [Image.open(path).convert("RGB") for path in arguments.images]
    else:
        names = arguments.prompt or arguments.prompts.read_text(encoding="utf-8").splitlines()
        inputs = names
    pipeline = load_pipeline(arguments.model)
    if arguments.tables == "f64":
        exact_tables(pipeline)
    noise, trace, calls = run(
        pipeline,
        inputs,
        steps=steps,
        guidance=guidance,
        per_input=arguments.per_input,
        seed=arguments.seed,
        noise=load_file(arguments.noise) if arguments.noise.exists() else None,
    )
    settings = {
        "inputs": names,
        "per_input": arguments.per_input,
        "steps": steps,
        "guidance": guidance,
        "seed": arguments.seed,
        "tables": arguments.tables,
    }
    if not arguments.noise.exists():
        save(arguments.noise, noise, settings)
    save(arguments.trace, trace, settings)
    if arguments.calls:
        save(arguments.calls, calls, settings)
    for name, value in trace.items():
        value = value.float()
        print(f"{name:24} {str(list(value.shape)):20} rms {value.square().mean().sqrt():.4f} max {value.abs().max():.4f}")


if __name__ == "__main__":
    main()
