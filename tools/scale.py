"""What the paper's training would take, from what a device takes for narrower networks of the same shape.

    python tools/scale.py --work DIR [--bin target/release/examples] [--device cpu]

Trains every stage of the preset `paper` for some steps at three widths, on 64 pictures of 1024 pixels that it makes.
Weights grow with the square of the width, which three widths determine; seconds are those of the widest, times the
ratio of weights. (The text tower's table of tokens is left out: its vocabulary comes from few captions.) Prints
docs/scale.md's tables. What cores need to read pictures is only measured where the device is the CPU: for a GPU they
are read ahead. Needs numpy and Pillow.
"""

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from measure_data import jpeg, picture

WIDTHS = (64, 128, 192)
PICTURES = 250e6
YEAR = 365.25 * 86400

# stage: width, steps and batch in the paper (table 3), items of a step here
STAGES = {
    "prior": (512, 600_000, 4096, 16),
    "decoder": (512, 800_000, 2048, 2),
    "upsampler.0": (320, 1_000_000, 1024, 2),
    "upsampler.1": (192, 1_000_000, 512, 1),
}


def data(folder):
    """Pictures with captions of fifteen words."""
    folder.mkdir(parents=True)
    for it in range(64):
        (folder / f"{it:02}.jpg").write_bytes(jpeg(picture(it, 1024)))
        words = " ".join(f"word{(it * 7 + place) % 50}" for place in range(15))
        (folder / f"{it:02}.txt").write_text(words + "\n", encoding="utf-8")


def sizes(width):
    """Settings that make every network of the preset `paper` narrower: its decoder is 512 wide."""
    text, image, prior = 2 * width, width * 5 // 2, 4 * width
    towers = {
        "clip.text.d_embedding": text,
        "clip.image.d_embedding": text,
        "clip.text.transformer": (text, max(1, text // 64)),
        "clip.image.transformer": (image, max(1, image // 80)),
        "prior.config.transformer": (prior, prior // 64),
        "prior.config.d_embedding": text,
        "prior.config.d_text": text,
        "decoder.config.d_embedding": text,
        "decoder.config.d_text": text,
        "decoder.config.unet.d_context": 4 * width + 256,
        "decoder.config.unet.block_out_channels": [width * it for it in (1, 2, 3, 4)],
        "upsampler.0.config.unet.block_out_channels": [width * it for it in (1, 2, 3, 4)],
        "upsampler.1.config.unet.block_out_channels": [width * it for it in (1, 1, 2, 2, 4, 4)],
    }
    for name, value in towers.items():
        if isinstance(value, tuple):
            yield f"{name}.d_model={value[0]}"
            yield f"{name}.d_hidden={4 * value[0]}"
            yield f"{name}.n_heads={value[1]}"
        else:
            yield f"{name}={value}"


def train(arguments, width, stage, *, steps=6):
    """Runs a stage of a width; seconds in all."""
    out = arguments.work / f"width-{width}"
    settings = [*sizes(width), "evaluation.every=0", "evaluation.held_out=0", "run.checkpoint_seconds=3600"]
    for name in ("clip", *STAGES):
        settings += [f"{name}.train.steps={1 if name == 'clip' else steps}", f"{name}.train.warmup=0"]
        settings += [f"{name}.train.batch={STAGES[name][3] if name in STAGES else 2}"]
    command = [arguments.bin / "train", arguments.work / "pictures", "--preset", "paper", "--out", out]
    command += ["--device", arguments.device, "--stage", stage]
    for setting in settings:
        command += ["--set", setting]
    start = time.monotonic()
    result = subprocess.run([str(it) for it in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stderr)
    return time.monotonic() - start


def weights(folder):
    """Numbers in a file of safetensors."""
    with open(folder / "model.safetensors", "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(int(np.prod(it["shape"])) for name, it in header.items() if name != "__metadata__")


def measured(arguments, width, stage):
    """Weights, seconds of a picture, and those of them that it takes to read it."""
    train(arguments, width, stage)
    out = arguments.work / f"width-{width}"
    lines = (out / stage / "loss.jsonl").read_text(encoding="utf-8").splitlines()
    reports = [json.loads(line) for line in lines][2:]
    median = lambda name: statistics.median(it[name] for it in reports) / STAGES[stage][3]
    for checkpoint in (out / stage).glob("step-*"):
        shutil.rmtree(checkpoint)
    return weights(out / "bundle" / stage), median("seconds") - median("waited"), median("waited")


def embedded(arguments, width):
    """Weights of both towers, seconds of a picture with its caption, and bytes."""
    train(arguments, width, "clip")
    # what is there already takes as long as to start
    took = train(arguments, width, "embeddings") - train(arguments, width, "embeddings")
    out = arguments.work / f"width-{width}"
    towers = sum(weights(out / "bundle" / name) for name in ("text_encoder", "image_encoder"))
    size = sum(it.stat().st_size for it in (out / "embeddings").iterdir())
    return towers, took / 64, size / 64


def at_width(values, width):
    """A square of the width through the values at three widths."""
    return float(np.polyval(np.polyfit(WIDTHS, values, 2), width))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the pictures and the runs; 10 GB")
    parser.add_argument("--bin", type=Path, default=Path("target/release/examples"))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    for width in WIDTHS:
        shutil.rmtree(arguments.work / f"width-{width}", ignore_errors=True)
    if not (arguments.work / "pictures").exists():
        data(arguments.work / "pictures")
    found = {"embeddings": [embedded(arguments, width) for width in WIDTHS]}
    for stage in STAGES:
        found[stage] = [measured(arguments, width, stage) for width in WIDTHS]
    print("| stage | width | weights | seconds a picture |\n|---|---|---|---|")
    for stage, rows in found.items():
        for width, row in zip(WIDTHS, rows):
            print(f"| {stage} | {width} | {row[0] / 1e6:.1f} million | {row[1]:.4f} |")
    print("\n| stage | weights | pictures in all | seconds a picture | years on this device |")
    print("|---|---|---|---|---|")
    needs = {}
    for stage, rows in found.items():
        width, steps, batch, _ = STAGES.get(stage, (512, 1, PICTURES, 0))
        size = at_width([row[0] for row in rows], width)
        seconds = rows[-1][1] * size / rows[-1][0]
        needs[stage] = (size, seconds, steps, batch)
        total = steps * batch
        years = total * seconds / YEAR
        print(f"| {stage} | {size / 1e9:.2f} billion | {total / 1e9:.2f} billion | {seconds:.1f} | {years:,.0f} |")
    cores = len(os.sched_getaffinity(0))
    # a batch of one picture is read by one core
    reading = {stage: found[stage][-1][2] * min(cores, STAGES[stage][3]) for stage in STAGES}
    reading["embeddings"] = reading["decoder"]
    print("\nCore milliseconds to read a picture of 1024 pixels, and to degrade it for an upsampler:", end=" ")
    print(", ".join(f"{stage} {1000 * seconds:.0f}" for stage, seconds in reading.items() if stage != "prior"))
    own = found["embeddings"][-1][2]
    wide = at_width([row[2] for row in found["embeddings"]], 512)
    print(f"Embeddings: {own / 1000:.1f} kB a picture at width {WIDTHS[-1]}, {wide / 1000:.0f} kB at the paper's.")
    print("\n| stage | pictures a second for 30 days | such devices | cores that read | memory of a device |", end="")
    print(" gradients of a step | link for a tenth of the step |\n|---|---|---|---|---|---|---|")
    for stage, (weights_of, seconds, steps, batch) in needs.items():
        pace = steps * batch / (30 * 86400)
        row = f"| {stage} | {pace:,.0f} | {pace * seconds:,.0f} | {pace * reading[stage]:,.1f} |"
        if stage in STAGES:
            # weights, average, gradients and both moments; in a ring, gradients come and go twice
            size, rate = 4 * weights_of / 1e9, steps / (30 * 86400)
            row += f" {5 * size:.0f} GB | {size:.1f} GB, {rate:.2f} times a second | {10 * 2 * size * rate:.0f} GB/s |"
        else:
            row += f" {4 * weights_of / 1e9:.0f} GB | none | none |"
        print(row)


if __name__ == "__main__":
    main()
