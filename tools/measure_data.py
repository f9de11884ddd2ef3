"""Measures what reading pictures costs training: seconds of a step, and the memory of the process.

    python tools/measure_data.py --work DIR [--bin target/release/examples]

Makes three data sets (100,000 pictures of 64 pixels in a folder, the same in webdataset shards, 50 pictures of 100
megapixels), and trains an upsampler of the preset `tiny` for some steps on each, beside pictures that are made in
memory (the shapes world). Needs numpy and Pillow.
"""

import argparse
import io
import json
import re
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

Image.MAX_IMAGE_PIXELS = None


def picture(number, side):
    """A picture with a slope, an edge and some noise, each number another."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:side, 0:side] / side
    slope = (x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1))[..., None] * 100
    edge = np.where(x + y > rng.uniform(0.5, 1.5), 60, -60)[..., None]
    values = 128 + slope + edge * rng.uniform(-1, 1, 3) + rng.normal(0, 8, (side, side, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def small(folder, number):
    """A folder of small pictures, of which 2,000 differ, each under many names."""
    folder.mkdir()
    files = [jpeg(picture(it, 64)) for it in range(min(number, 2000))]
    for it in range(number):
        (folder / f"{it:06}.jpg").write_bytes(files[it % len(files)])
        (folder / f"{it:06}.txt").write_text(f"picture number {it}\n", encoding="utf-8")


def shards(folder, source, per_shard=10_000):
    """The same pictures in webdataset shards."""
    folder.mkdir()
    names = sorted(path.stem for path in source.glob("*.jpg"))
    for start in range(0, len(names), per_shard):
        with tarfile.open(folder / f"{start // per_shard:04}.tar", "w") as tar:
            for name in names[start : start + per_shard]:
                for ending in ("jpg", "txt"):
                    tar.add(source / f"{name}.{ending}", f"{name}.{ending}")


def large(folder, number):
    """A folder of pictures of 100 megapixels, each a mosaic of small ones."""
    folder.mkdir()
    for it in range(number):
        tile = np.asarray(picture(it, 1000))
        (folder / f"{it:02}.jpg").write_bytes(jpeg(Image.fromarray(np.tile(tile, (10, 10, 1)))))
        (folder / f"{it:02}.txt").write_text(f"picture number {it}\n", encoding="utf-8")


def run(program, work, name, options, steps):
    """Seconds of a step, and the most memory, of a run of an upsampler."""
    out = work / f"run-{name}"
    # what is not measured: checkpoints and evaluations
    common = {"evaluation.every": 0, "run.checkpoint_seconds": 3600, "upsampler.0.train.steps": steps}
    settings = {**common, "upsampler.0.train.cooldown": 0, "embeddings.enabled": "false", **options.pop("set", {})}
    command = ["/usr/bin/time", "-v", program, *options.pop("paths", []), "--stage", "upsampler.0", "--out", out]
    for field, value in settings.items():
        command += ["--set", f"{field}={value}"]
    result = subprocess.run([str(it) for it in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stderr)
    lines = (out / "upsampler.0/loss.jsonl").read_text(encoding="utf-8").splitlines()
    reports = [json.loads(line) for line in lines][3:]
    memory = int(re.search(r"Maximum resident set size \(kbytes\): (\d+)", result.stderr)[1])
    seconds, waited = (statistics.median(it[name] for it in reports) for name in ("seconds", "waited"))
    return seconds, waited, memory / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the data and the runs; 2 GB")
    parser.add_argument("--bin", type=Path, default=Path("target/release/examples"))
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    work, program = arguments.work, arguments.bin / "train"
    work.mkdir(parents=True, exist_ok=True)
    makers = {
        "small": lambda folder: small(folder, 100_000),
        "shards": lambda folder: shards(folder, work / "small"),
        "large": lambda folder: large(folder, 50),
    }
    for name, make in makers.items():
        if not (work / name).exists():
            make(work / name)
    cases = {
        "made in memory": {"set": {"data.shapes": "true"}},
        "100,000 pictures of 64 pixels, a folder": {"paths": [work / "small"]},
        "the same in 10 shards": {"paths": [work / "shards"]},
        "50 pictures of 100 megapixels": {"paths": [work / "large"]},
    }
    print("| pictures | seconds a step | of these waiting for pictures | memory |\n|---|---|---|---|")
    for number, (name, options) in enumerate(cases.items()):
        steps = 8 if "megapixels" in name else arguments.steps
        seconds, waited, memory = run(program, work, str(number), options, steps)
        print(f"| {name} | {seconds:.3f} | {waited:.4f} | {memory:.2f} GB |", flush=True)


if __name__ == "__main__":
    main()
