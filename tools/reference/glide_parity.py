"""The whole comparison of GLIDE here with GLIDE's own code, from nothing, as one table.

    cargo build --release --example text_to_image --example inpaint
    GLIDE_SOURCE=glide-text2im python glide_parity.py --work DIR

As `karlo_parity.py`, which says what the figures are. The noise follows from the seed (`hashed.py`).
"""

import argparse
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

import glide_reference  # noqa: E402
import karlo_parity  # noqa: E402
from karlo_parity import PROMPTS, Table, distance, moved, rust  # noqa: E402
from karlo_reference import save  # noqa: E402

#: Folders: size and type of the weights.
FOLDERS = {"tiny": "f32", "odd": "f16", "small": "bf16"}

#: Of the base.
GUIDANCE = {"on": 3.0, "off": 1.0}

for entry in ("pooled", "tokens", "mask"):
    karlo_parity.LIMITS[f"upsampler_text_encoder.0.{entry}"] = karlo_parity.LIMITS[f"text_encoder.{entry}"]


def compare(arguments, table, size, inpaint):
    """All cases of one folder: seeds, batches and guidance, with and without moved weights."""
    name = f"{size} inpainting" if inpaint else size
    folder = arguments.work / name.replace(" ", "-")
    glide_reference.write_folder(folder, size, FOLDERS[size], inpaint)
    reference = glide_reference.load(folder, size)
    others = []
    for index in range(arguments.scatter_runs):
        words, *networks = glide_reference.load(folder, size)
        moved(networks, index)
        others.append((words, *networks))
    for guidance, scale in GUIDANCE.items():
        for seed in arguments.seeds:
            for batch in arguments.batches:
                case = arguments.work / f"{folder.name}-{guidance}-{seed}-{batch}"
                case.mkdir(parents=True, exist_ok=True)
                prompts = [PROMPTS[(seed + index) % len(PROMPTS)] for index in range(batch)]
                asked = {"steps": [str(steps) for steps in arguments.steps], "guidance": scale}
                noise, trace = glide_reference.run(reference, prompts, seed=seed, **asked)
                save(case / "noise.safetensors", noise, {"seed": seed})
                for models in others:
                    _, other = glide_reference.run(models, prompts, noise=noise, **asked)
                    table.add((name, guidance), "scatter", distance(other, trace))
                flags = {"--model": folder}
                if arguments.steps[1] != "fast27":
                    flags["--upsampler-steps"] = arguments.steps[1]
                found = rust(arguments, prompts, case, (None, scale), flags)
                table.add((name, guidance), "rust", distance(found, trace))
                print(".", end="", file=sys.stderr, flush=True)
    print(f" {name}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for models, noise, traces and pictures")
    parser.add_argument("--bin", type=Path, default=Path("target/release/examples"), help="folder of the examples")
    parser.add_argument("--sizes", nargs="+", choices=FOLDERS, default=list(FOLDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", nargs=2, default=["10", "5"], help="base, upsampler, as GLIDE spells them")
    parser.add_argument("--scatter-runs", type=int, default=1, help="how often the reference runs with moved weights")
    parser.add_argument("--factor", type=float, default=3.0, help="pictures may be this much further off than scatter")
    arguments = parser.parse_args()
    quiet()
    arguments.work.mkdir(parents=True, exist_ok=True)
    table = Table()
    for size in arguments.sizes:
        compare(arguments, table, size, False)
        compare(arguments, table, size, True)
    failures = table.print_and_judge(arguments.factor, True)
    if failures:
        sys.exit(f"{failures} rows failed")


if __name__ == "__main__":
    main()
