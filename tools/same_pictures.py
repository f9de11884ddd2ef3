"""Compares the pictures that two builds make: nothing that a user sees may move unnoticed.

    python tools/same_pictures.py OLD NEW [--model DIR]

OLD and NEW are folders that hold `text_to_image` and `image_variation` (cargo's
target/release/examples, say, of two commits). Both make 24 pictures or batches of the same model
(four kinds of call, two seeds, three samplers, one picture and three), and run the two small Karlo
folders of tests/fixtures with their noise. Pixels and traced tensors must be the same bytes; what
differs is printed, and the exit code is 1. Needs Python only.
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KARLO = ROOT / "tests/fixtures/karlo"
CAPTION = "a large red circle above a small blue square"
SAMPLERS = ["ddpm", "ddim", "dpm_solver"]
SEEDS = [0, 7]


def calls(start):
    """(name, program, arguments) of the 24 calls; `start` is a picture to vary."""
    for sampler in SAMPLERS:
        for seed in SEEDS:
            n = 3 if seed else 1
            common = ["--seed", str(seed), "--n", str(n), "--decoder-sampler", sampler]
            kinds = {
                "caption": ("text_to_image", [CAPTION]),
                "negative": ("text_to_image", ["a pink ring", "--negative-prompt", "a large ring"]),
                "guided": (
                    "text_to_image",
                    ["a small star", "--prior-guidance", "1", "--decoder-guidance", "1"],
                ),
                "variation": ("image_variation", [str(start)]),
            }
            for kind, (program, arguments) in kinds.items():
                yield f"{kind}, {sampler}, seed {seed}, {n} at once", program, arguments + common


def run(folder, program, arguments):
    done = subprocess.run([folder / program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{folder / program} {' '.join(map(str, arguments))}\n{done.stderr}")


def pixels(path):
    """Size and filtered rows of a PNG: what it shows, without its recipe or its compression."""
    data, at, header, packed = path.read_bytes(), 8, b"", b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        header = body if kind == b"IHDR" else header
        packed += body if kind == b"IDAT" else b""
        at += 12 + length
    return header, zlib.decompress(packed)


def split(path):
    """Header and data of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + length])
    entries.pop("__metadata__", None)
    return entries, data[8 + length :]


def tensors(path):
    """Every tensor of a safetensors file as (type, shape, bytes), by today's name."""
    entries, body = split(path)
    part = lambda e: (e["dtype"], e["shape"], body[slice(*e["data_offsets"])])
    return {renamed(name, OLD_NAMES): part(entry) for name, entry in entries.items()}


# Names before the stages had one spelling (until commit e1226f3), and since.
OLD_NAMES = [
    ("upsample.", "upsampler.0."),
    ("prior.image_embedding", "prior.embedding"),
    ("text.", "text_encoder."),
    ("image.", "image_encoder."),
]
OLD_OPTION, NEW_OPTION = "--upsample-steps", "--upsampler-steps"


def renamed(name, names):
    for old, new in names:
        if name.startswith(old):
            return new + name[len(old):]
    return name


def is_old(folder):
    """Whether a build is of before the stages had one spelling."""
    text = subprocess.run([folder / "text_to_image", "--help"], capture_output=True, text=True).stdout
    return NEW_OPTION not in text


def with_old_names(path, out):
    """Writes a safetensors file under the names of before."""
    entries, body = split(path)
    names = [(new, old) for old, new in OLD_NAMES]
    header = json.dumps({renamed(name, names): entry for name, entry in entries.items()}).encode()
    header += b" " * (-len(header) % 8)
    out.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return out


def made(folder, program, arguments, work):
    """The pictures of one call, in order."""
    out = work / "out"
    out.mkdir()
    run(folder, program, [*arguments, "--out", out / "p.png"])
    pictures = [pixels(path) for path in sorted(out.iterdir())]
    for path in out.iterdir():
        path.unlink()
    out.rmdir()
    return pictures


def traced(folder, name, work):
    """The tensors of one small Karlo folder, on the two captions or pictures of its noise."""
    trace, out = work / "trace.safetensors", work / "karlo"
    noise = KARLO / f"{name}.noise.safetensors"
    if name == "variation":
        program, words = "image_variation", [KARLO / "wide.png", KARLO / "high.png"]
    else:
        prompts = work / "prompts.txt"
        prompts.write_text("a cat!\na painting of two cats on the moon, highly detailed digital art\n")
        program, words = "text_to_image", ["--prompts", prompts]
    out.mkdir(exist_ok=True)
    steps = steps_of(noise)
    if is_old(folder):
        noise = with_old_names(noise, work / "noise.safetensors")
        steps = [OLD_OPTION if word == NEW_OPTION else word for word in steps]
    files = ["--model", KARLO / name, "--noise", noise, "--trace", trace, "--out", out]
    run(folder, program, [*words, *steps, *files])
    return tensors(trace)


def steps_of(noise):
    """The numbers of steps for which a file holds noise."""
    counts = {}
    for name in tensors(noise):
        stage = name.rsplit(".initial")[0].split(".step.")[0]
        counts[stage] = counts.get(stage, 0) + 1
    options = {"prior": "--prior-steps", "decoder": "--decoder-steps", "upsampler.0": NEW_OPTION}
    return [word for stage, option in options.items() if stage in counts
            for word in (option, counts[stage])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--model", type=Path, help="a model folder for both [default: each its own]")
    arguments = parser.parse_args()
    model = ["--model", arguments.model] if arguments.model else []
    different = 0

    def compare(name, old, new):
        nonlocal different
        different += old != new
        print(f"{'same' if old == new else 'DIFFERENT'}  {name}")

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        start = work / "start.png"
        run(arguments.old, "text_to_image", [CAPTION, "--seed", "3", "--out", start, *model])
        for name, program, words in calls(start):
            words = [*words, *model]
            compare(name, *(made(build, program, words, work)
                            for build in (arguments.old, arguments.new)))
        for name in ["tiny", "variation"]:
            old, new = (traced(build, name, work) for build in (arguments.old, arguments.new))
            for key in sorted(old.keys() | new.keys()):
                compare(f"karlo {name}: {key}", old.get(key), new.get(key))
    print(f"{different} different")
    sys.exit(different != 0)


if __name__ == "__main__":
    main()
