"""The whole comparison of Kandinsky 2.2 here with diffusers, from nothing, as one table.

    cargo build --release --example text_to_image --example image_variation
    python kandinsky_parity.py --work DIR

As `karlo_parity.py`, which says what the figures are. Latents are judged like embeddings: nothing in
a linear schedule amplifies rounding. Pictures are judged by the reference's own scatter: decoders of
random weights sample latents that are too large for their autoencoder.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import kandinsky_folders  # noqa: E402
import kandinsky_reference  # noqa: E402
import karlo_parity  # noqa: E402
from karlo_parity import PERTURBATION, PROMPTS, Table, distance, pictures  # noqa: E402
from karlo_reference import perturb, save  # noqa: E402

#: Folders: name, options.
FOLDERS = {
    "tiny": {"size": "tiny"},
    "odd": {"size": "odd", "dtype": "f16"},
    "small": {"size": "small", "dtype": "bf16"},
}

GUIDANCE = {"on": (4.0, 4.0), "off": (1.0, 1.0)}

#: What is asked beside a prompt; a hint is of another U-Net. Sides are shares of the model's own.
KINDS = {
    "": {},
    " negative": {"negative": "a dog"},
    " sized": {"size": (1.5, 0.5)},
    " hint": {"control": "hint"},
}

karlo_parity.LIMITS.update({"prior.embedding": 1e-4, "prior.negative_embedding": 1e-4, "decoder.latent": 1e-4})


def rust(arguments, model, sources, case, guidance, run):
    """Runs the Rust example on recorded noise and gives its trace."""
    trace = case / "trace.rust.safetensors"
    trace.unlink(missing_ok=True)
    flags = {
        "--model": model / "decoder",
        "--prior-model": model / "prior",
        "--out": case / "rust",
        "--noise": case / "noise.safetensors",
        "--trace": trace,
        "--decoder-steps": arguments.steps[1],
        "--decoder-guidance": guidance[1],
    }
    if isinstance(sources[0], Path):
        command = [arguments.bin / "image_variation", *sources]
    else:
        prompts = case / "prompts.txt"
        prompts.write_text("".join(f"{prompt}\n" for prompt in sources), encoding="utf-8")
        command = [arguments.bin / "text_to_image"]
        flags.update({"--prompts": prompts, "--prior-steps": arguments.steps[0], "--prior-guidance": guidance[0]})
        if run.get("negative"):
            flags["--negative-prompt"] = run["negative"]
    if run.get("size"):
        flags["--width"], flags["--height"] = run["size"]
    if run.get("hint"):
        flags["--hint"] = arguments.work / "hint.png"
    command += [part for flag in flags.items() for part in flag]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)}\n{result.stdout}{result.stderr}")
    return load_file(trace)


def compare(arguments, table, folder, kind, sources):
    """All cases of one folder: seeds, batches and guidance, with and without moved weights."""
    kind, asked = kind if isinstance(kind, tuple) else (kind, {})
    model = arguments.work / (folder + (" hint" if "control" in asked else "")).replace(" ", "-")
    reference = kandinsky_reference.load(model)
    moved = []
    for index in range(arguments.scatter_runs):
        moved.append([perturb(pipeline, PERTURBATION, index) for pipeline in kandinsky_reference.load(model)])
    variation, negative = kind == " variation", asked.get("negative")
    options = {"negative": negative}
    if "size" in asked:
        decoder = reference[1]
        side = decoder.unet.config.sample_size * decoder.movq_scale_factor
        # to which the pipeline rounds up
        multiple = decoder.movq_scale_factor**2
        options["size"] = tuple(round(side * share / multiple) * multiple for share in asked["size"])
    if "control" in asked:
        options["hint"] = Image.open(arguments.work / "hint.png")
    for guidance_name, guidance in GUIDANCE.items():
        if negative and guidance_name == "off":
            continue
        row = (folder + kind, guidance_name)
        for seed in arguments.seeds:
            for batch in arguments.batches:
                case = arguments.work / f"{row[0].replace(' ', '_')}-{guidance_name}-{seed}-{batch}"
                case.mkdir(parents=True, exist_ok=True)
                chosen = [sources[(seed + index) % len(sources)] for index in range(batch)]
                inputs = [Image.open(path) for path in chosen] if variation else chosen
                run = {"steps": arguments.steps, "guidance": guidance, **options}
                noise, trace, _ = kandinsky_reference.run(reference, inputs, seed=seed, **run)
                save(case / "noise.safetensors", noise, {"seed": seed})
                if guidance_name == "off":
                    # which nobody asks for here
                    del trace["prior.negative_embedding"]
                for pipelines in moved:
                    _, other, _ = kandinsky_reference.run(pipelines, inputs, noise=noise, **run)
                    table.add(row, "scatter", distance(other, trace))
                found = rust(arguments, model, chosen, case, guidance, run)
                table.add(row, "rust", distance(found, trace))
                print(".", end="", file=sys.stderr, flush=True)
    print(f" {folder}{kind}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for models, noise, traces and pictures")
    parser.add_argument("--bin", type=Path, default=Path("target/release/examples"), help="folder of the examples")
    parser.add_argument("--sizes", nargs="+", choices=FOLDERS, default=list(FOLDERS))
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, " variation"], default=[*KINDS, " variation"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", nargs=2, type=int, default=[25, 50], help="prior, decoder")
    parser.add_argument("--scatter-runs", type=int, default=2, help="how often the reference runs with moved weights")
    parser.add_argument("--factor", type=float, default=3.0, help="pictures may be this much further off than scatter")
    arguments = parser.parse_args()
    quiet()
    arguments.work.mkdir(parents=True, exist_ok=True)
    table = Table()
    for folder in arguments.sizes:
        kandinsky_folders.write_folder(arguments.work / folder, **FOLDERS[folder])
        for name in arguments.kinds:
            kind = KINDS.get(name, {})
            if "control" in kind:
                hint = Image.open(pictures(arguments.work)[0]).convert("RGB")
                side = min(hint.size)
                hint.crop((0, 0, side, side)).save(arguments.work / "hint.png")
                path = arguments.work / f"{folder}-hint"
                kandinsky_folders.write_folder(path, **FOLDERS[folder], control="hint")
            sources = pictures(arguments.work) if name == " variation" else PROMPTS
            compare(arguments, table, folder, (name, kind), sources)
    failures = table.print_and_judge(arguments.factor, True)
    if failures:
        sys.exit(f"{failures} rows failed")


if __name__ == "__main__":
    main()
