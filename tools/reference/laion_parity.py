"""The whole comparison of LAION's models here with DALLE2-pytorch, from nothing, as one table.

    cargo build --release --example text_to_image --example image_variation
    pip install --no-deps -r requirements-laion.txt
    python laion_parity.py --work DIR

As `karlo_parity.py`, which says what the figures are; here too, the reference's tables are exact. The noise follows
from the seed (`hashed.py`), and the steps are those of the folders: of every sampler that DALLE2-pytorch has. One
folder's weights come from checkpoints of training, through `tools/convert_pickle.py`. A run compares with one release
of DALLE2-pytorch (`laion_reference.py` says how to have it be one up to 1.1).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

import laion_reference  # noqa: E402
import torch  # noqa: E402
from laion_reference import EARLY  # noqa: E402
from karlo_parity import PROMPTS, Table, distance, moved, pictures  # noqa: E402
from karlo_reference import save  # noqa: E402
from packaging.version import Version  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

#: Folders: size and type of the weights.
FOLDERS = {"early-tiny": "f32", "early-other": "f16"} if EARLY else {"tiny": "f32", "odd": "f16", "small": "bf16"}

#: Of prior and decoder; early priors know none.
GUIDANCE = {"on": (1.0 if EARLY else 2.0, 1.7), "off": (1.0, 1.0)}

#: Which of the folders comes from checkpoints of training, and of which release they say that they are.
TRAINED = "early-tiny" if EARLY else "tiny"
RELEASE = "1.0.3" if EARLY else "1.15.6"

CONVERTER = Path(__file__).resolve().parents[1] / "convert_pickle.py"


def trainers(path):
    """A configuration as the trainers keep it: attention of levels as numbers."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for unet in config.get("decoder", {}).get("unets", []):
        found = unet.get("self_attn", False)
        unet["self_attn"] = [int(it) for it in found] if isinstance(found, list) else int(found)
    return config


def through_pickles(folder):
    """Replaces a folder's weights by what the converter makes of checkpoints as DALLE2-pytorch's trainers write them:
    with weights that are not averaged, and objects that are no tensors."""
    for path in folder.glob("*/latest.safetensors"):
        state = load_file(path)
        trained = {key: torch.zeros_like(value) for key, value in state.items()}
        config = next(path.parent.glob("*_config.json"))
        saved = {"model": trained, "version": Version(RELEASE), "optimizer": {"state": {}}, "config": trainers(config)}
        config.unlink()
        if path.parent.name == "prior":
            saved |= {"ema_model": state, "ema": {"step": torch.tensor(1)}}
        else:
            names = {key: key.replace("unets.", "", 1).replace(".", ".ema_model.", 1) for key in state}
            saved |= {"ema": {names[key]: value for key, value in state.items()}}
        torch.save(saved, path.with_suffix(".pth"))
        path.unlink()
        subprocess.run([sys.executable, CONVERTER, path.with_suffix(".pth"), path], check=True, stdout=subprocess.DEVNULL)
        path.with_suffix(".pth").unlink()


def rust(arguments, folder, case, prompts, picture, guidance):
    """Runs the Rust example on recorded noise and gives its trace."""
    trace = case / "trace.rust.safetensors"
    trace.unlink(missing_ok=True)
    flags = {
        "--model": folder,
        "--out": case / "rust",
        "--noise": case / "noise.safetensors",
        "--trace": trace,
        "--decoder-guidance": guidance[1],
    }
    if picture is None:
        path = case / "prompts.txt"
        path.write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
        command = [arguments.bin / "text_to_image"]
        flags |= {"--prompts": path, "--prior-guidance": guidance[0]}
    else:
        command = [arguments.bin / "image_variation", picture]
        flags |= {"--prompt": prompts[0], "--n": len(prompts)}
    command += [part for flag in flags.items() for part in flag]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)}\n{result.stdout}{result.stderr}")
    return load_file(trace)


def compare(arguments, table, size, variation, sources):
    """All cases of one folder: seeds, batches and guidance, with and without moved weights."""
    name = f"{size} variation" if variation else size
    folder = arguments.work / size
    laion_reference.write_folder(folder, size, FOLDERS[size])
    if size == TRAINED:
        through_pickles(folder)
    reference = laion_reference.exact_tables(laion_reference.Models(folder, size))
    others = []
    for index in range(arguments.scatter_runs):
        other = laion_reference.exact_tables(laion_reference.Models(folder, size))
        moved(other.networks(), index)
        others.append(other)
    for guidance, scales in GUIDANCE.items():
        for seed in arguments.seeds:
            for batch in arguments.batches:
                case = arguments.work / f"{name.replace(' ', '-')}-{guidance}-{seed}-{batch}"
                case.mkdir(parents=True, exist_ok=True)
                picture = sources[seed % len(sources)] if variation else None
                # variations of a picture have one caption
                prompts = [PROMPTS[(seed + (0 if variation else index)) % len(PROMPTS)] for index in range(batch)]
                if not reference.decoders[0].condition_on_text_encodings and variation:
                    prompts = [""] * batch
                asked = {"picture": picture and Image.open(picture), "guidance": scales}
                noise, trace = laion_reference.run(reference, prompts, seed=seed, **asked)
                save(case / "noise.safetensors", noise, {"seed": seed})
                for models in others:
                    _, other = laion_reference.run(models, prompts, noise=noise, **asked)
                    table.add((name, guidance), "scatter", distance(other, trace))
                found = rust(arguments, folder, case, prompts, picture, scales)
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
    parser.add_argument("--scatter-runs", type=int, default=1, help="how often the reference runs with moved weights")
    parser.add_argument("--factor", type=float, default=3.0, help="pictures may be this much further off than scatter")
    arguments = parser.parse_args()
    quiet()
    arguments.work.mkdir(parents=True, exist_ok=True)
    table = Table()
    for size in arguments.sizes:
        compare(arguments, table, size, False, None)
        compare(arguments, table, size, True, pictures(arguments.work))
    failures = table.print_and_judge(arguments.factor, True)
    if failures:
        sys.exit(f"{failures} rows failed")


if __name__ == "__main__":
    main()
