"""The whole comparison of Stable unCLIP here with diffusers, from nothing, as one table.

    cargo build --release --example text_to_image --example image_variation
    python stable_parity.py --work DIR

As `karlo_parity.py`, which says what the figures are. Latents are judged like embeddings: nothing in
this schedule amplifies rounding.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

import karlo_parity  # noqa: E402
import latent_parity  # noqa: E402
import stable_folders  # noqa: E402
import stable_reference  # noqa: E402
from karlo_parity import PROMPTS, Table, pictures  # noqa: E402

#: Folders: name, options.
FOLDERS = {
    "tiny": {"size": "tiny"},
    "odd": {"size": "odd", "dtype": "f16"},
    "small": {"size": "small", "dtype": "bf16"},
}

GUIDANCE = {"on": (4.0, 10.0), "off": (1.0, 1.0)}

#: What is asked beside a prompt: of the reference, and of the program here.
KINDS = {
    "": {},
    " negative": {"negative": "a dog", "noise_level": 100},
    " ddim": {"sampler": "ddim"},
}

karlo_parity.LIMITS.update({"prior.embedding": 1e-4, "decoder.latent": 1e-4})


def compare(arguments, table, folder, name, kind, sources):
    """One kind of run on one folder."""
    model = arguments.work / folder
    asked = {key: value for key, value in kind.items() if key != "sampler"}
    flags = {"--model": model, "--noise-level": kind.get("noise_level", 0)}
    scales = GUIDANCE
    if "sampler" in kind:
        flags["--decoder-sampler"] = kind["sampler"]
    if "negative" in kind:
        flags["--negative-prompt"] = kind["negative"]
        scales = {"on": GUIDANCE["on"]}
    latent_parity.compare(
        arguments,
        table,
        folder + name,
        sources,
        load=lambda: stable_reference.load(model, sampler=kind.get("sampler", "pndm")),
        run=partial(stable_reference.run, **asked),
        scales=scales,
        flags=flags,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for models, noise, traces and pictures")
    parser.add_argument("--bin", type=Path, default=Path("target/release/examples"), help="folder of the examples")
    parser.add_argument("--sizes", nargs="+", choices=FOLDERS, default=list(FOLDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", nargs=2, type=int, default=[25, 20], help="prior, decoder")
    parser.add_argument("--scatter-runs", type=int, default=2, help="how often the reference runs with moved weights")
    parser.add_argument("--factor", type=float, default=3.0, help="pictures may be this much further off than scatter")
    arguments = parser.parse_args()
    quiet()
    arguments.work.mkdir(parents=True, exist_ok=True)
    table = Table()
    for folder in arguments.sizes:
        stable_folders.write_folder(arguments.work / folder, **FOLDERS[folder])
        for name, kind in KINDS.items():
            compare(arguments, table, folder, name, kind, PROMPTS)
        compare(arguments, table, folder, " variation", {"noise_level": 20}, pictures(arguments.work))
    failures = table.print_and_judge(arguments.factor, True)
    if failures:
        sys.exit(f"{failures} rows failed")


if __name__ == "__main__":
    main()
