"""The whole comparison of ADM here with ADM's own code, from nothing, as one table.

    cargo build --release --features autodiff --example text_to_image
    ADM_SOURCE=guided-diffusion python adm_parity.py --work DIR

As `karlo_parity.py`, which says what the figures are. The noise follows from the seed (`hashed.py`).
"""

import argparse
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

import adm_reference  # noqa: E402
from karlo_parity import Table, distance, moved, rust  # noqa: E402
from karlo_reference import save  # noqa: E402

#: Folders: size and type of the weights.
FOLDERS = {"tiny": "f32", "odd": "f16", "small": "bf16"}

#: Of the classifier.
SCALES = {"on": 2.0, "off": 0.0}


def compare(arguments, table, size):
    """All cases of one folder: seeds, batches and guidance, with and without moved weights."""
    folder = arguments.work / size
    adm_reference.write_folder(folder, size, FOLDERS[size])
    reference = adm_reference.load(folder, size)
    others = []
    for index in range(arguments.scatter_runs):
        models = adm_reference.load(folder, size)
        moved(models.values(), index)
        others.append(models)
    has_upsampler = any(name.endswith("upsampler") for name in reference)
    for guidance, scale in SCALES.items():
        for seed in arguments.seeds:
            for batch in arguments.batches:
                case = arguments.work / f"{size}-{guidance}-{seed}-{batch}"
                case.mkdir(parents=True, exist_ok=True)
                classes = [(2 * seed + 3 * index) % 7 for index in range(batch)]
                asked = {"steps": [str(steps) for steps in arguments.steps], "scale": scale}
                noise, trace = adm_reference.run(reference, classes, seed=seed, **asked)
                save(case / "noise.safetensors", noise, {"seed": seed})
                for models in others:
                    _, other = adm_reference.run(models, classes, noise=noise, **asked)
                    table.add((size, guidance), "scatter", distance(other, trace))
                flags = {"--model": folder, "--classifier-scale": scale}
                if has_upsampler:
                    flags["--upsampler-steps"] = arguments.steps[1]
                # of one kind, a class is the classifier's alone
                names = [str(one) if scale or size != "odd" else "" for one in classes]
                found = rust(arguments, names, case, (None, 1.0), flags)
                table.add((size, guidance), "rust", distance(found, trace))
                print(".", end="", file=sys.stderr, flush=True)
    print(f" {size}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for models, noise, traces and pictures")
    parser.add_argument("--bin", type=Path, default=Path("target/release/examples"), help="folder of the examples")
    parser.add_argument("--sizes", nargs="+", choices=FOLDERS, default=list(FOLDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", nargs=2, type=int, default=[10, 5], help="drawing, upsampler")
    parser.add_argument("--scatter-runs", type=int, default=1, help="how often the reference runs with moved weights")
    parser.add_argument("--factor", type=float, default=3.0, help="pictures may be this much further off than scatter")
    arguments = parser.parse_args()
    quiet()
    arguments.work.mkdir(parents=True, exist_ok=True)
    table = Table()
    for size in arguments.sizes:
        compare(arguments, table, size)
    failures = table.print_and_judge(arguments.factor, True)
    if failures:
        sys.exit(f"{failures} rows failed")


if __name__ == "__main__":
    main()
