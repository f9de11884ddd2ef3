"""The whole comparison of Kandinsky 2.2 or 2.1 here with diffusers, from nothing, as one table.

    cargo build --release --example text_to_image --example image_variation
    python kandinsky_parity.py --work DIR
    python kandinsky_parity.py --work DIR --version 2.1

As `karlo_parity.py`, which says what the figures are. Latents are judged like embeddings: nothing in
a linear schedule amplifies rounding. Pictures are judged by the reference's own scatter: decoders of
random weights sample latents that are too large for their autoencoder.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

from PIL import Image  # noqa: E402

import kandinsky21_folders  # noqa: E402
import kandinsky_folders  # noqa: E402
import kandinsky_reference  # noqa: E402
import karlo_parity  # noqa: E402
import latent_parity  # noqa: E402
from karlo_parity import PROMPTS, Table, pictures  # noqa: E402

#: Folders: name, options.
FOLDERS = {
    "tiny": {"size": "tiny"},
    "odd": {"size": "odd", "dtype": "f16"},
    "small": {"size": "small", "dtype": "bf16"},
}

GUIDANCE = {"on": (4.0, 4.0), "off": (1.0, 1.0)}

#: What makes the folders of each version.
VERSIONS = {"2.2": kandinsky_folders, "2.1": kandinsky21_folders}

#: What is asked beside a prompt; a hint is of another U-Net. Sides are shares of the model's own.
KINDS = {
    "": {},
    " negative": {"negative": "a dog"},
    " sized": {"size": (1.5, 0.5)},
    " hint": {"control": "hint"},
}

karlo_parity.LIMITS.update({"prior.embedding": 1e-4, "prior.negative_embedding": 1e-4, "decoder.latent": 1e-4})


def size_of(decoder, shares):
    """Width and height, as shares of the model's own, of which the pipeline makes multiples."""
    factor = decoder.movq_scale_factor
    side, multiple = decoder.unet.config.sample_size * factor, factor**2
    return tuple(round(side * share / multiple) * multiple for share in shares)


def compare(arguments, table, folder, name, kind, sources):
    """One kind of run on one folder."""
    model = arguments.work / (f"{folder}-hint" if "control" in kind else folder)
    flags = {"--model": model / "decoder", "--prior-model": model / "prior"}
    options = {"negative": kind.get("negative")}
    scales = GUIDANCE
    if "negative" in kind:
        flags["--negative-prompt"] = kind["negative"]
        scales = {"on": GUIDANCE["on"]}
    if "size" in kind:
        options["size"] = size_of(kandinsky_reference.load(model)[1], kind["size"])
        flags["--width"], flags["--height"] = options["size"]
    if "control" in kind:
        flags["--hint"] = arguments.work / "hint.png"
        options["hint"] = Image.open(flags["--hint"])

    def only(trace, scale):
        if scale == "off":
            # which nobody asks for here
            del trace["prior.negative_embedding"]

    latent_parity.compare(
        arguments,
        table,
        folder + name,
        sources,
        load=lambda: kandinsky_reference.load(model),
        run=partial(kandinsky_reference.run, **options),
        scales=scales,
        flags=flags,
        only=only,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for models, noise, traces and pictures")
    parser.add_argument("--bin", type=Path, default=Path("target/release/examples"), help="folder of the examples")
    parser.add_argument("--version", choices=VERSIONS, default="2.2")
    parser.add_argument("--sizes", nargs="+", choices=FOLDERS, default=list(FOLDERS))
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, " variation"], default=[*KINDS, " variation"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", nargs=2, type=int, default=[25, 50], help="prior, decoder")
    parser.add_argument("--scatter-runs", type=int, default=2, help="how often the reference runs with moved weights")
    parser.add_argument("--factor", type=float, default=3.0, help="pictures may be this much further off than scatter")
    arguments = parser.parse_args()
    quiet()
    if arguments.version == "2.1":
        # which has no U-Net that follows a hint
        arguments.kinds = [name for name in arguments.kinds if "control" not in KINDS.get(name, {})]
        if not arguments.kinds:
            sys.exit("2.1 has no U-Net that follows a hint")
    write_folder = VERSIONS[arguments.version].write_folder
    arguments.work.mkdir(parents=True, exist_ok=True)
    table = Table()
    for folder in arguments.sizes:
        write_folder(arguments.work / folder, **FOLDERS[folder])
        for name in arguments.kinds:
            kind = KINDS.get(name, {})
            if "control" in kind:
                hint = Image.open(pictures(arguments.work)[0]).convert("RGB")
                side = min(hint.size)
                hint.crop((0, 0, side, side)).save(arguments.work / "hint.png")
                path = arguments.work / f"{folder}-hint"
                write_folder(path, **FOLDERS[folder], control="hint")
            sources = pictures(arguments.work) if name == " variation" else PROMPTS
            compare(arguments, table, folder, name, kind, sources)
    failures = table.print_and_judge(arguments.factor, True)
    if failures:
        sys.exit(f"{failures} rows failed")


if __name__ == "__main__":
    main()
