"""Runs GLIDE's own code on a folder of its layout, with noise that follows from a seed.

    git clone https://github.com/openai/glide-text2im && git -C glide-text2im checkout 69b5307
    GLIDE_SOURCE=glide-text2im python glide_reference.py --size tiny --out DIR    writes a folder

The folder has random weights (`hashed.py`), and a tokenizer of a small vocabulary in GPT-2's layout. Sizes are
those below; `full` is the published one, with GPT-2's own vocabulary from the checkout.

Networks, diffusion and tokenizer are GLIDE's own. What its notebooks do around them is written here: guidance,
rounding of the small picture, the noise that the upsampler starts from, what stays of a picture.
"""

import argparse
import gzip
import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet, write_json, write_weights  # noqa: E402  (first: it sets the environment)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import hashed  # noqa: E402

SOURCE = os.environ.get("GLIDE_SOURCE")
if not SOURCE:
    sys.exit("GLIDE_SOURCE is not set: expected a checkout of https://github.com/openai/glide-text2im (69b5307)")
sys.path.insert(0, SOURCE)

from glide_text2im import gaussian_diffusion, text2im_model  # noqa: E402
from glide_text2im.model_creation import create_gaussian_diffusion  # noqa: E402
from glide_text2im.tokenizer import bpe  # noqa: E402

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def size(context, text, base, upsample, merges):
    """Arguments of GLIDE's classes: text is width and depth; a network is its channels, their multiples, residual
    blocks, and how much smaller pictures are where it has attention."""
    return {"context": context, "text": text, "base": base, "upsample": upsample, "merges": merges}


SIZES = {
    "micro": size(12, (128, 2), (32, (1, 4), 1, (2,)), (32, (1, 1, 1, 4), 1, (8,)), 30),
    "micro-odd": size(9, (64, 1), (64, (1, 1, 2), 1, (4,)), (32, (1, 1, 2, 2), 1, (8,)), 30),
    "tiny": size(24, (128, 3), (64, (1, 2), 1, (2,)), (32, (1, 1, 2, 2), 1, (8,)), 60),
    "odd": size(19, (64, 1), (96, (1, 2, 2), 2, (4,)), (64, (1, 1, 1, 2), 1, (4, 8)), 45),
    "small": size(40, (256, 4), (64, (1, 2, 3, 4), 2, (2, 4, 8)), (64, (1, 1, 2, 2, 3), 1, (8, 16)), 80),
    "full": size(128, (512, 16), (192, (1, 2, 3, 4), 3, (2, 4, 8)), (192, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32)), None),
}

#: The classes of the four files.
CLASSES = {
    "base": text2im_model.Text2ImUNet,
    "base_inpaint": text2im_model.InpaintText2ImUNet,
    "upsample": text2im_model.SuperResText2ImUNet,
    "upsample_inpaint": text2im_model.SuperResInpaintText2ImUnet,
}

#: Words of which the small vocabulary has parts.
CORPUS = "a red cat on the moon and the dogs in a painting of an old master with the sun at sea " * 3


def small_vocabulary(merges):
    """A vocabulary of all bytes and so many merges, learnt from the corpus."""
    alphabet = bpe.bytes_to_unicode()
    words = [[alphabet[byte] for byte in f" {word}".encode()] for word in CORPUS.split()]
    pairs = []
    for _ in range(merges):
        counts = {}
        for word in words:
            for pair in zip(word, word[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        pairs.append(best)
        for word in words:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = ["".join(best)]
                at += 1
    tokens = [*alphabet.values(), *dict.fromkeys("".join(pair) for pair in pairs), "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, pairs


def write_tokenizer(folder, merges):
    """GPT-2's two files, under the names that its tokenizer has today; without a number of merges, its own."""
    folder.mkdir(parents=True, exist_ok=True)
    if merges is None:
        own = Path(SOURCE) / "glide_text2im" / "tokenizer"
        for source, name in (("encoder.json.gz", "vocab.json"), ("vocab.bpe.gz", "merges.txt")):
            with gzip.open(own / source) as packed, open(folder / name, "wb") as out:
                shutil.copyfileobj(packed, out)
        return
    vocabulary, pairs = small_vocabulary(merges)
    write_json(folder / "vocab.json", vocabulary, indent=None)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def encoder(folder):
    """GLIDE's tokenizer of a folder's files."""
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    return bpe.Encoder(encoder=vocabulary, bpe_merges=[tuple(line.split()) for line in lines])


def network(name, chosen, words):
    """One of the four networks, with whatever weights."""
    channels, multiples, blocks, attention = SIZES[chosen][name.removesuffix("_inpaint")]
    width, layers = SIZES[chosen]["text"]
    return CLASSES[name](
        text_ctx=SIZES[chosen]["context"],
        xf_width=width,
        xf_layers=layers,
        xf_heads=width // 64,
        xf_final_ln=True,
        xf_padding=True,
        tokenizer=words,
        in_channels=3,
        model_channels=channels,
        out_channels=6,
        num_res_blocks=blocks,
        attention_resolutions=attention,
        dropout=0.1,
        channel_mult=multiples,
        num_heads=1,
        num_head_channels=64,
        num_heads_upsample=-1,
        use_scale_shift_norm=True,
        resblock_updown=True,
    ).eval()


def shapes(name, chosen, words):
    """The shape of every tensor of a network, without its memory."""
    with torch.device("meta"):
        return {key: list(value.shape) for key, value in network(name, chosen, words).state_dict().items()}


def write_folder(folder, chosen, dtype="f32", inpaint=False):
    """A folder of GLIDE's layout: of captions alone, or for parts of pictures."""
    folder = Path(folder)
    write_tokenizer(folder / "tokenizer", SIZES[chosen]["merges"])
    words = encoder(folder / "tokenizer")
    for name in ("base", "upsample"):
        name += "_inpaint" if inpaint else ""
        state = shapes(name, chosen, words)
        tensors = {key: hashed.weight(f"{name}.{key}", shape).to(DTYPES[dtype]) for key, shape in state.items()}
        write_weights(folder / f"{name}.safetensors", tensors)


def load_one(folder, name, chosen, words):
    """One network of a folder, in f32."""
    model = network(name, chosen, words)
    state = {key: value.float() for key, value in load_file(Path(folder) / f"{name}.safetensors").items()}
    model.load_state_dict(state)
    return model


def load(folder, chosen):
    """Tokenizer and networks of a folder, in f32."""
    folder = Path(folder)
    words = encoder(folder / "tokenizer")
    inpaint = "_inpaint" if (folder / "base_inpaint.safetensors").exists() else ""
    return words, *(load_one(folder, name + inpaint, chosen, words) for name in ("base", "upsample"))


class Draws:
    """Every draw of a run, by name: recorded ones, or those that follow from the seed."""

    def __init__(self, seed=0, recorded=None):
        self.seed = seed
        self.recorded = recorded
        self.drawn = {}

    def __call__(self, name, shape):
        if self.recorded is None:
            value = hashed.noise(f"{self.seed}.{name}", tuple(shape))
        else:
            value = self.recorded[name]
        assert tuple(value.shape) == tuple(shape), name
        self.drawn[name] = value
        return value

    @contextmanager
    def of_steps(self, stage, steps, rows, draws):
        """Stands in for the draws of a sampling loop; the last one has no effect there."""
        state = {"step": 0}

        def randn_like(x):
            step = state["step"]
            state["step"] += 1
            if not draws or step + 1 == steps:
                return torch.zeros_like(x)
            value = self(f"{stage}.step.{step}", (rows, *x.shape[1:]))
            return torch.cat([value] * (x.shape[0] // rows))

        original, gaussian_diffusion.th.randn_like = gaussian_diffusion.th.randn_like, randn_like
        try:
            yield
        finally:
            gaussian_diffusion.th.randn_like = original


def tokens_of(words, prompts, context):
    """Tokens and what of them is no padding."""
    rows = [words.padded_tokens_and_mask(words.encode(prompt), context) for prompt in prompts]
    return {
        "tokens": torch.tensor([row[0] for row in rows]),
        "mask": torch.tensor([row[1] for row in rows], dtype=torch.bool),
    }


def write_down(trace, stage, model, read):
    """What a network's text tower gives."""
    given = model.get_text_emb(read["tokens"], read["mask"])
    trace[f"{stage}.pooled"] = given["xf_proj"]
    trace[f"{stage}.tokens"] = given["xf_out"].permute(0, 2, 1).contiguous()
    trace[f"{stage}.mask"] = read["mask"].float()


def run(models, prompts, *, steps, guidance, seed=0, noise=None, kept=None):
    """One run as in GLIDE's notebooks. `steps` are those of both networks, as GLIDE spells them (`fast27`); `kept` is
    a picture (PIL) and a mask of 64 by 64, 1 where it stays. Gives the noise and the trace."""
    words, base, upsample = models
    draws, trace, rows = Draws(seed, noise), {}, len(prompts)
    given = tokens_of(words, prompts, base.text_ctx)
    write_down(trace, "text_encoder", base, given)
    write_down(trace, "upsampler_text_encoder.0", upsample, given)

    def known(side):
        picture = kept[0].resize((side, side), resample=Image.BICUBIC)
        pixels = torch.from_numpy(np.array(picture.convert("RGB")))[None].permute(0, 3, 1, 2).float() / 127.5 - 1
        mask = torch.from_numpy(kept[1]).float()[None, None]
        mask = torch.nn.functional.interpolate(mask, (side, side), mode="nearest")
        return {"inpaint_image": pixels * mask, "inpaint_mask": mask}

    def sample(stage, model, side, steps, conditions, loop, scale=1.0, temperature=1.0):
        schedule = {"base": "squaredcos_cap_v2", "upsample": "linear"}[stage]
        diffusion = create_gaussian_diffusion(steps=1000, noise_schedule=schedule, timestep_respacing=steps)
        name = {"base": "decoder", "upsample": "upsampler.0"}[stage]
        is_guided = scale != 1
        paste = known(side) if kept else {}
        if is_guided:
            null = tokens_of(words, [""] * rows, model.text_ctx)
            conditions = {**conditions, **{key: torch.cat([conditions[key], null[key]]) for key in null}}
        count = rows * (2 if is_guided else 1)
        conditions = {**conditions, **{key: value.repeat(count, 1, 1, 1) for key, value in paste.items()}}
        start = draws(f"{name}.initial", (rows, 3, side, side)) * temperature

        def guided(x_t, timesteps, **named):
            half = x_t[:rows]
            output = model(torch.cat([half, half]), timesteps, **named)
            epsilon, rest = output[:, :3], output[:, 3:]
            cond, null = epsilon.split(rows)
            led = null + scale * (cond - null)
            return torch.cat([torch.cat([led, led]), rest], dim=1)

        def denoised(x_0):
            mask = paste["inpaint_mask"]
            return x_0 * (1 - mask) + paste["inpaint_image"] * mask

        is_ancestral = loop == "p_sample_loop"
        with draws.of_steps(name, diffusion.num_timesteps, rows, is_ancestral):
            drawn = getattr(diffusion, loop)(
                guided if is_guided else model,
                (count, 3, side, side),
                noise=torch.cat([start] * (count // rows)),
                device="cpu",
                clip_denoised=True,
                model_kwargs=conditions,
                denoised_fn=denoised if kept else None,
            )[:rows]
        trace[f"{name}.image"] = drawn
        return drawn

    small = sample("base", base, 64, steps[0], given, "p_sample_loop", scale=guidance)
    conditions = {**given, "low_res": ((small + 1) * 127.5).round() / 127.5 - 1}
    is_inpainting = isinstance(upsample, text2im_model.SuperResInpaintText2ImUnet)
    loop = "p_sample_loop" if is_inpainting else "ddim_sample_loop"
    sample("upsample", upsample, 256, steps[1], conditions, loop, temperature=0.997)
    return draws.drawn, trace


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--inpaint", action="store_true", help="the networks for parts of pictures")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    quiet()
    write_folder(asked.out, asked.size, asked.dtype, asked.inpaint)
