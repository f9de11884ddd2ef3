#!/usr/bin/env python3
"""Kills programs at random moments while they write, and says what they leave behind.

    python3 tools/kill.py --kills 200

`train`, `convert` and `text_to_image` are started again and again on small work and killed with SIGKILL. After each
kill, everything that stands at its place has to be whole: models open, checkpoints resume, pictures have their recipes.
In the end nothing unfinished may be left but what is younger than a day, which is counted, aged, and has to be gone
after the next write. It needs the release examples (`cargo build --release --features train --examples`).
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
import zlib
import struct

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("UNCLIP_BIN", ROOT / "target/release/examples"))


def run(*command):
    return subprocess.run([str(it) for it in command], capture_output=True, text=True, errors="replace")


def killed(least, most, *command):
    """Starts a program and kills it after a random time; says whether it was still running."""
    process = subprocess.Popen([str(it) for it in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(random.uniform(least, most))
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def unfinished(folder):
    names = (".unclip-unfinished-*", ".unclip-replaced-*", ".tmp*", "*.tmp", "unfinished.bpk")
    return [path for name in names for path in folder.rglob(name)]


def png(path, color):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(color) * 32 for _ in range(32))
    head = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def seconds_of(*command):
    start = time.time()
    done = run(*command)
    assert done.returncode == 0, done.stderr
    return time.time() - start


def train(work, kills):
    """Checkpoints and stages of a bundle; resumed after every kill, compared with a run that was left alone."""
    data = work / "pictures"
    data.mkdir()
    for k, (name, color) in enumerate([("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255)), ("gray", (90, 90, 90))] * 6):
        png(data / f"{k}.png", [min(255, value + k) for value in color])
        (data / f"{k}.txt").write_text(f"a {name} square {k % 5}\n")
    # measured on what is held out, so that the best weights are written as well
    small = ["evaluation.held_out=0.2", "evaluation.every=3", "run.checkpoint_seconds=0", "vocabulary.merges=20"]
    small = [part for setting in small for part in ("--set", setting)]
    for stage in ["clip", "prior", "decoder", "upsampler.0"]:
        small += ["--set", f"{stage}.train.steps=12", "--set", f"{stage}.train.batch=4"]

    def command(out):
        return [BIN / "train", data, "--out", out, *small]

    whole = seconds_of(*command(work / "alone"))
    done, out = 0, work / "run"
    while done < kills:
        done += killed(0.0, whole * 0.5, *command(out))
        if all((out / stage / "checkpoint.json").exists() for stage in ["clip", "prior", "decoder", "upsampler.0"]) and run(
            *command(out)
        ).returncode == 0:
            same(work / "alone/bundle", out / "bundle")
            shutil.rmtree(out)
    result = run(*command(out))
    assert result.returncode == 0, result.stderr
    same(work / "alone/bundle", out / "bundle")
    return done, out, lambda: run(*command(out), "--resume", "--set", "prior.train.steps=13")


def same(one, other):
    for path in one.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (other / path.relative_to(one)).read_bytes(), path


def convert(work, kills):
    """A model's folder: there as a whole, or not at all."""
    out = work / "converted"
    command = [BIN / "convert", "--model", ROOT / "assets/shapes", "--out", out, "--layout", "native"]
    whole = seconds_of(*command)
    shutil.rmtree(out)
    done = 0
    while done < kills:
        done += killed(0.0, whole, *command)
        if out.exists():
            opened = run(BIN / "text_to_image", "a", "--model", out, "--estimate")
            assert opened.returncode == 0, opened.stderr
            shutil.rmtree(out)
    return done, work, lambda: run(*command)


def pictures(work, kills):
    """Pictures over older ones: each whole, the old one or the new one."""
    folder = work / "drawn"
    command = [BIN / "text_to_image", "a red ring", "--n", "8", "--out", str(folder) + "/", "--decoder-steps", "1", "--prior-steps", "1", "--upsampler-steps", "1", "--stages-resident"]
    whole = seconds_of(*command)
    done = 0
    while done < kills:
        done += killed(whole * 0.5, whole * 1.05, *command)
        for path in folder.glob("*.png"):
            text = path.read_bytes()
            assert text.endswith(b"IEND\xaeB`\x82") and b"unclip\0" in text, path
    return done, folder, lambda: run(*command)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    share = max(1, arguments.kills // 4)
    with tempfile.TemporaryDirectory() as folder:
        for what, kills in [(train, 2 * share), (convert, share), (pictures, share)]:
            work = pathlib.Path(folder) / what.__name__
            work.mkdir()
            start = time.time()
            done, place, again = what(work, kills)
            left = unfinished(place)
            old = time.time() - 25 * 3600
            for path in left:
                for inner in [*path.rglob("*"), path] if path.is_dir() else [path]:
                    os.utime(inner, (old, old))
            result = again()
            assert result.returncode == 0, result.stderr
            last = unfinished(place)
            assert not last, last
            print(
                f"{what.__name__}: {done} kills in {time.time() - start:.0f} s, all that stands is whole; unfinished "
                f"files or folders left: {len(left)}, and 0 after the next write a day later",
                flush=True,
            )


if __name__ == "__main__":
    main()
