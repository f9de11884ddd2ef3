"""Runs DALLE2-pytorch on a folder of LAION's layout, with noise that follows from a seed.

    pip install --no-deps -r requirements-laion.txt
    python laion_reference.py --size tiny --out DIR      writes a folder

The folder has random weights (`hashed.py`), LAION's configurations, and a tokenizer of a small vocabulary. Sizes
are those of `laion_sizes.py`; `full` has the published ones. Those that begin with `early` are of the releases from
0.23.3 to 1.1 and need one of them: the folder that it was installed in (`pip install --no-deps --target DIR dalle2-pytorch==1.0.3`)
stands in the environment variable `DALLE2_PYTORCH`, and nothing else can be compared by that run.

Networks, schedules and sampling loops are DALLE2-pytorch's own, CLIP's towers those of transformers. What LAION's
programs do around them is written here: how captions and pictures are read.
"""

import argparse
import importlib.util
import os
import sys
import types
from contextlib import contextmanager
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet, write_json, write_weights  # noqa: E402  (first: it sets the environment)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import (  # noqa: E402
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

import hashed  # noqa: E402
from karlo_folders import IMAGE_MEAN, IMAGE_STD, write_tokenizer  # noqa: E402
from laion_sizes import SIZES  # noqa: E402

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

CLIP_FILE = "ViT-L-14.safetensors"


#: Where one of the releases up to 1.1 is, if that is the one to compare with.
EARLIER = os.environ.get("DALLE2_PYTORCH")


def is_read(version):
    """Whether the library reads files of this release."""
    numbers = [int(part) for part in version.split(".")[:3]]
    return [0, 23, 3] <= numbers < [1, 2] or numbers >= [1, 10]


def dalle2_pytorch():
    """The module of the networks, without the parts of the package that train, and what these ask for."""
    if EARLIER is None:
        spec = importlib.util.find_spec("dalle2_pytorch")
        places = [] if spec is None else list(spec.submodule_search_locations)
    else:
        places = [f"{EARLIER}/dalle2_pytorch"]
    if EARLIER is not None and not Path(places[0], "dalle2_pytorch.py").is_file():
        sys.exit(f"DALLE2_PYTORCH: no dalle2_pytorch in {EARLIER}: pip install --no-deps --target {EARLIER} dalle2-pytorch==1.0.3")
    if not places or not Path(places[0], "dalle2_pytorch.py").is_file():
        sys.exit("dalle2_pytorch is not installed: pip install --no-deps -r requirements-laion.txt")
    version = Path(places[0], "version.py").read_text(encoding="utf-8").split("'")[1]
    if not is_read(version):
        sys.exit(f"dalle2_pytorch {version}: expected 0.23.3 to 1.1, or 1.10 to 1.15; the others compute in another way")

    def stub(name, **members):
        module = types.ModuleType(name)
        module.__dict__.update(members)
        sys.modules[name] = module

    package = types.ModuleType("dalle2_pytorch")
    package.__path__ = places
    sys.modules["dalle2_pytorch"] = package
    for name in ("torchvision", "torchvision.transforms", "kornia", "kornia.augmentation"):
        stub(name)
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    sys.modules["kornia"].augmentation = sys.modules["kornia.augmentation"]
    stub("kornia.filters", gaussian_blur2d=None)
    stub("vector_quantize_pytorch", VectorQuantize=None)
    stub("x_clip", CLIP=type("CLIP", (), {}))
    stub("coca_pytorch", CoCa=type("CoCa", (), {}))
    stub("dalle2_pytorch.tokenizer", tokenizer=None)
    from dalle2_pytorch import dalle2_pytorch as module

    module.tqdm = lambda steps, **_: steps
    return module


REFERENCE = dalle2_pytorch()

#: Whether it is one of these, by what they lack.
EARLY = not hasattr(REFERENCE, "WeightStandardizedConv2d")


def sizes():
    """The names of the sizes that this release of DALLE2-pytorch has."""
    return [name for name in SIZES if name.startswith("early") == EARLY]


def clip_configs(chosen):
    """Configurations of both towers, OpenAI's."""
    own = SIZES[chosen]["clip"]
    shared = {"hidden_act": "quick_gelu", "projection_dim": own["embedding"], "layer_norm_eps": 1e-5}
    width, layers = own["text"]
    text = CLIPTextConfig(
        vocab_size=own["vocabulary"],
        max_position_embeddings=own["context"],
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        bos_token_id=own["vocabulary"] - 2,
        eos_token_id=own["vocabulary"] - 1,
        **shared,
    )
    width, layers, side, patch = own["image"]
    image = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        image_size=side,
        patch_size=patch,
        **shared,
    )
    return text, image


def prior_of(config):
    """A prior, with whatever weights, of the object `prior` of a configuration."""
    own = {key: value for key, value in config["prior"].items() if key not in ("net", "clip")}
    return REFERENCE.DiffusionPrior(net=REFERENCE.DiffusionPriorNetwork(**config["prior"]["net"]), **own).eval()


def decoder_of(config):
    """A decoder, with whatever weights, of the object `decoder` of a configuration."""
    own = {key: value for key, value in config["decoder"].items() if key not in ("unets", "clip")}
    unets = [REFERENCE.Unet(**unet) for unet in config["decoder"]["unets"]]
    return REFERENCE.Decoder(unets, **own).eval()


def clip_shapes(chosen):
    """Names and shapes of CLIP's tensors."""
    text, image = clip_configs(chosen)
    with torch.device("meta"):
        states = [CLIPTextModelWithProjection(text).state_dict(), CLIPVisionModelWithProjection(image).state_dict()]
    return {key: list(value.shape) for state in states for key, value in state.items() if "position_ids" not in key}


def module_shapes(make, config):
    """Names and shapes of a module's tensors: schedules are constants, and are left out."""
    return {
        key: list(value.shape)
        for key, value in make(config).state_dict().items()
        if not key.startswith(("noise_scheduler", "lowres_conds")) and ".rotary_emb." not in key
    }


def shapes(chosen):
    """The shapes of all tensors of a folder, by file."""
    size = SIZES[chosen]
    result = {CLIP_FILE.removesuffix(".safetensors"): clip_shapes(chosen)}
    for name, make in (("prior", prior_of), ("decoder", decoder_of), ("upsampler", decoder_of)):
        if name in size:
            result[name] = module_shapes(make, size[name])
    return result


def write_folder(folder, chosen, dtype="f32"):
    """A folder as LAION's files lie in it."""
    size = SIZES[chosen]
    folder = Path(folder)
    for name, own in shapes(chosen).items():
        tensors = {key: hashed.weight(f"{name}.{key}", shape).to(DTYPES[dtype]) for key, shape in own.items()}
        path = folder / CLIP_FILE if name not in size else folder / name / "latest.safetensors"
        write_weights(path, tensors)
    for name, config in (("prior", "prior_config"), ("decoder", "decoder_config"), ("upsampler", "decoder_config")):
        if name in size:
            write_json(folder / name / f"{config}.json", size[name])
    own = size["clip"]
    write_tokenizer(folder / "tokenizer", own["merges"], own["vocabulary"], own["context"])


def read(path):
    """Tensors in f32."""
    return {key: value.float() for key, value in load_file(path).items()}


def load_stage(module, folder):
    """Loads the weights of a stage's folder, and nothing else: schedules are there already."""
    result = module.load_state_dict(read(folder / "latest.safetensors"), strict=False)
    assert not result.unexpected_keys, result.unexpected_keys
    left = [key for key in result.missing_keys if "noise_scheduler" not in key and ".rotary_emb." not in key]
    assert not left, left


class Models:
    """The networks of a folder, in f32."""

    def __init__(self, folder, chosen):
        folder, size = Path(folder), SIZES[chosen]
        clip = read(folder / CLIP_FILE)
        text, image = clip_configs(chosen)
        self.text, self.image = CLIPTextModelWithProjection(text).eval(), CLIPVisionModelWithProjection(image).eval()
        for tower in (self.text, self.image):
            own = {key: clip[key] for key in tower.state_dict() if key in clip}
            assert not tower.load_state_dict(own, strict=False).unexpected_keys
        # of OpenAI's tokenizer, in which a `!` is a token as any other
        self.words = CLIPTokenizer.from_pretrained(folder / "tokenizer", pad_token="<|endoftext|>")
        self.context = size["clip"]["context"]
        self.prior = prior_of(size["prior"])
        load_stage(self.prior, folder / "prior")
        self.decoders = [decoder_of(size["decoder"])]
        load_stage(self.decoders[0], folder / "decoder")
        if "upsampler" in size:
            self.decoders.append(decoder_of(size["upsampler"]))
            load_stage(self.decoders[1], folder / "upsampler")

    def networks(self):
        return [self.text, self.image, self.prior, *self.decoders]

    def tokens(self, captions):
        """As `clip.tokenize(captions, truncate=True)`."""
        rows = self.words(list(captions), padding=False, truncation=True, max_length=self.context).input_ids
        return torch.tensor([row + [0] * (self.context - len(row)) for row in rows])

    def embed_text(self, captions):
        """As `OpenAIClipAdapter.embed_text`: embeddings of length 1, states that are 0 outside of the caption."""
        tokens = self.tokens(captions)
        given = self.text(input_ids=tokens)
        is_end = tokens == self.words.eos_token_id
        mask = torch.nn.functional.pad(is_end.cumsum(dim=-1) == 0, (1, -1), value=True) & (tokens != 0)
        states = given.last_hidden_state
        return REFERENCE.l2norm(given.text_embeds), states.masked_fill(~mask[..., None], 0.0), states, mask

    def pixels(self, picture):
        """As LAION's programs read a picture: resized to a square by Lanczos' kernel."""
        side = self.image.config.image_size
        picture = picture.convert("RGB").resize((side, side), resample=Image.LANCZOS)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
        return (pixels - mean) / std


def exact_tables(models):
    """Gives the DDIM loops their table of alpha bar in f64: in f32, 1 minus the first of them has lost its digits. All
    other tables are computed in f64 already, and rounded."""
    prior = models.prior.noise_scheduler
    schedulers = [prior, *(own for decoder in models.decoders for own in decoder.noise_schedulers)]
    rules = [REFERENCE.cosine_beta_schedule, REFERENCE.linear_beta_schedule, REFERENCE.quadratic_beta_schedule]
    for scheduler in schedulers:
        all_betas = [rule(scheduler.num_timesteps) for rule in rules]
        (betas,) = [betas for betas in all_betas if torch.equal(betas.float(), scheduler.betas)]
        alphas = torch.cumprod(1 - betas, dim=0)
        scheduler.alphas_cumprod = alphas
        scheduler.alphas_cumprod_prev = torch.nn.functional.pad(alphas[:-1], (1, 0), value=1.0)
    return models


class Draws:
    """Every draw of a run, by name: recorded ones, or those that follow from the seed."""

    def __init__(self, seed=0, recorded=None):
        self.seed = seed
        self.recorded = recorded
        self.drawn = {}

    def __call__(self, name, shape):
        value = hashed.noise(f"{self.seed}.{name}", tuple(shape)) if self.recorded is None else self.recorded[name]
        assert tuple(value.shape) == tuple(shape), name
        self.drawn[name] = value
        return value

    @contextmanager
    def of_stage(self, stage, steps, draws):
        """Stands in for the draws of a sampling loop: the start, and the noise of each step but the last, if that
        counts."""
        state = {"step": 0}

        def randn(shape, **_):
            return self(f"{stage}.initial", shape)

        def randn_like(x):
            step = state["step"]
            state["step"] += 1
            return self(f"{stage}.step.{step}", x.shape) if draws and step + 1 < steps else torch.zeros_like(x)

        original = torch.randn, torch.randn_like
        torch.randn, torch.randn_like = randn, randn_like
        try:
            yield
        finally:
            torch.randn, torch.randn_like = original


def calls_of(config, timesteps):
    """How often a network is called, by what its configuration asks for."""
    return timesteps if config is None else min(config, timesteps)


def run(models, prompts, *, picture=None, guidance, seed=0, noise=None):
    """One run as the configurations have it, of captions or of a picture with captions. `guidance` is that of the
    prior and of the decoder. Gives the noise and the trace."""
    draws, trace, rows = Draws(seed, noise), {}, len(prompts)
    embed, read, states, mask = models.embed_text(prompts)
    trace |= {"text_encoder.pooled": embed, "text_encoder.tokens": states, "text_encoder.mask": mask.float()}
    if picture is None:
        prior = models.prior
        points = calls_of(prior.sample_timesteps, prior.noise_scheduler.num_timesteps)
        # of fewer points than timesteps, the loop of the later releases leaves the first out
        calls = points if EARLY or points == prior.noise_scheduler.num_timesteps else points - 1
        text = {"text_embed": embed, "text_encodings": read if prior.condition_on_text_encodings else None}
        with draws.of_stage("prior", calls, True):
            shape = (rows, prior.image_embed_dim)
            image = prior.p_sample_loop(shape, text_cond=text, cond_scale=guidance[0], timesteps=points)
            image = image / prior.image_embed_scale if EARLY else image
        trace["prior.embedding"] = image
    else:
        pixels = models.pixels(picture)[None]
        image = REFERENCE.l2norm(models.image(pixel_values=pixels).image_embeds).repeat(rows, 1)
        trace |= {"image_encoder.pixels": pixels, "image_encoder.embedding": image[:1]}
    drawn, place = None, 0
    for index, decoder in enumerate(models.decoders):
        for number in range(1 + index, decoder.num_unets + 1):
            if index == 0 and number > 1 and len(models.decoders) > 1:
                continue
            stage = "decoder" if place == 0 else f"upsampler.{place - 1}"
            timesteps = decoder.noise_schedulers[number - 1].num_timesteps
            calls = calls_of(decoder.sample_timesteps[number - 1], timesteps)
            scales = [guidance[1] if place == 0 else 1.0] * decoder.num_unets
            with draws.of_stage(stage, calls, EARLY or calls == timesteps):
                drawn = decoder.sample(
                    image=drawn,
                    image_embed=image,
                    text_encodings=read if decoder.condition_on_text_encodings else None,
                    cond_scale=scales,
                    start_at_unet_number=number,
                    stop_at_unet_number=number,
                )
            trace[f"{stage}.image"] = drawn * 2 - 1
            place += 1
    return draws.drawn, trace


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sizes(), required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    quiet()
    write_folder(asked.out, asked.size, asked.dtype)
