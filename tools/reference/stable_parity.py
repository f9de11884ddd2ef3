"""The whole comparison of Stable unCLIP here with diffusers, from nothing, as one table.

    cargo build --release --example text_to_image --example image_variation
    python stable_parity.py --work DIR

As `karlo_parity.py`, which says what the figures are. Latents are judged like embeddings: nothing in
this schedule amplifies rounding.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import karlo_parity  # noqa: E402
import stable_folders  # noqa: E402
import stable_reference  # noqa: E402
from karlo_parity import PERTURBATION, PROMPTS, Table, distance, pictures  # noqa: E402
from karlo_reference import perturb, save  # noqa: E402

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


def rust(arguments, model, sources, case, guidance, kind):
    """Runs the Rust example on recorded noise and gives its trace."""
    trace = case / "trace.rust.safetensors"
    trace.unlink(missing_ok=True)
    flags = {
        "--model": model,
        "--out": case / "rust",
        "--noise": case / "noise.safetensors",
        "--trace": trace,
        "--decoder-steps": arguments.steps[1],
        "--decoder-guidance": guidance[1],
        "--noise-level": kind.get("noise_level", 0),
    }
    if "sampler" in kind:
        flags["--decoder-sampler"] = kind["sampler"]
    if isinstance(sources[0], Path):
        command = [arguments.bin / "image_variation", *sources]
    else:
        prompts = case / "prompts.txt"
        prompts.write_text("".join(f"{prompt}\n" for prompt in sources), encoding="utf-8")
        command = [arguments.bin / "text_to_image"]
        flags.update({"--prompts": prompts, "--prior-steps": arguments.steps[0], "--prior-guidance": guidance[0]})
        if "negative" in kind:
            flags["--negative-prompt"] = kind["negative"]
    command += [part for flag in flags.items() for part in flag]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)}\n{result.stdout}{result.stderr}")
    found = load_file(trace)
    # transformers' tower gives no more
    return {key: value for key, value in found.items() if key not in ("text_encoder.pooled", "text_encoder.mask")}


def compare(arguments, table, folder, name, kind, sources):
    """All cases of one folder: seeds, batches and guidance, with and without moved weights."""
    model = arguments.work / folder
    how = {"sampler": kind.get("sampler", "pndm")}
    reference = stable_reference.load(model, **how)
    moved = []
    for index in range(arguments.scatter_runs):
        pipelines = stable_reference.load(model, **how)
        moved.append([perturb(pipeline, PERTURBATION, index) for pipeline in pipelines])
    variation = isinstance(sources[0], Path)
    for guidance_name, guidance in GUIDANCE.items():
        if "negative" in kind and guidance_name == "off":
            continue
        row = (folder + name, guidance_name)
        for seed in arguments.seeds:
            for batch in arguments.batches:
                case = arguments.work / f"{row[0].replace(' ', '_')}-{guidance_name}-{seed}-{batch}"
                case.mkdir(parents=True, exist_ok=True)
                chosen = [sources[(seed + index) % len(sources)] for index in range(batch)]
                inputs = [Image.open(path) for path in chosen] if variation else chosen
                own = {key: value for key, value in kind.items() if key != "sampler"}
                run = {"steps": arguments.steps, "guidance": guidance, **own}
                noise, trace, _ = stable_reference.run(reference, inputs, seed=seed, **run)
                save(case / "noise.safetensors", noise, {"seed": seed})
                for pipelines in moved:
                    _, other, _ = stable_reference.run(pipelines, inputs, noise=noise, **run)
                    table.add(row, "scatter", distance(other, trace))
                found = rust(arguments, model, chosen, case, guidance, kind)
                table.add(row, "rust", distance(found, trace))
                print(".", end="", file=sys.stderr, flush=True)
    print(f" {folder}{name}", file=sys.stderr)


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
