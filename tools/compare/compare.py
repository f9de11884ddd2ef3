"""Times this project beside diffusers and PyTorch: the same folder, shapes and threads, in turn.

    cargo build --release --features train --examples
    python tools/compare/compare.py --work out/compare
    python tools/compare/compare.py --work out/compare --cases unet unet-train --pairs 20
    python tools/compare/compare.py --work out/compare --cases prior decoder upsampler picture --size full

Cases (the first five by default):

    unet, unet-train        a U-Net of 32 and 64 channels at 32 pixels, batch 32: one call; one training step
    decoder32, decoder32-train    the same with a decoder's attention and conditions
    bundled                 the bundled model's 512-pixel picture, from the second of a process on; ours alone
    prior, decoder, upsampler     one call of each network of Karlo in `--size` (two rows where guidance makes two),
                            and its share of what is computed once for the 25, 25 or 7 steps of a picture
    kandinsky-decoder       one call of Kandinsky 2.2's U-Net, two rows
    kandinsky21-decoder     the same of Kandinsky 2.1's, which reads captions
    kandinsky-autoencoder   one latent to a picture of 512 pixels
    stable-decoder          one call of Stable unCLIP's U-Net, two rows
    stable-autoencoder      one latent to a picture of 768 pixels
    glide-decoder, glide-upsampler  one call of GLIDE's U-Nets, two rows and one; GLIDE_SOURCE is a checkout
    adm-decoder, adm-upsampler, adm-256  one call of ADM's U-Nets for 64 pixels, 64 to 256 and 256; ADM_SOURCE is one
    laion-prior, laion-decoder  one call of DALLE2-pytorch's networks as LAION trained them, two rows
    picture                 one caption to one picture, 25, 25 and 7 steps, each side once

Folders of random weights are made in --work by tools/reference/karlo_folders.py, where they are not
there yet: `full` is Karlo as published, 13.7 GB, `kandinsky-full` Kandinsky 2.2, 9.8 GB
in f16, `kandinsky21-full` Kandinsky 2.1, 6.6 GB in f16, `stable-full-l` Stable unCLIP with CLIP ViT-L, 5.5 GB in f16,
`glide-full` GLIDE, 1.6 GB in f16, `adm-full-64` and `adm-full-256` ADM, 1.3 GB and 1.2 GB,
and `laion-full` LAION's, 4.3 GB in f16. Both sides answer each call by one line, so calls
alternate: ours, theirs, ours, theirs. No two variants of PyTorch are in memory at once.

`--device cuda --precision bf16` compares on a GPU instead: what ours computes in, and PyTorch's
variants of bf16 beside those of f32. Memory is then what each side took of the GPU (nvidia-smi).

A row is a variant of PyTorch: median and quartiles of the seconds of both, quartiles of the ratio
ours / theirs of each pair, and the peak memory since loading (Linux only). bf16 is shown beside the others and
is not the one to beat: ours computes in f32. The last line of a case names the f32 variant that is
hardest to beat. A busy machine is unfair to both sides in ways of their own: use an idle one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REFERENCE = HERE.parent / "reference"

#: Calls before those that count: memory is taken, code is compiled.
WARM_UP = 2

#: Seconds between two calls, in which the other side's threads go to sleep.
PAUSE = 0.05

UNET = ["eager", "channels_last", "compile", "compile+channels_last", "channels_last+bf16"]
TRANSFORMER = ["eager", "compile", "bf16"]

#: Cases of single calls: size of the folder (None: --size), arguments of both sides, variants, and
#: the calls that share what is computed once (None: that is not counted).
CALLS = {
    "unet": ("timing", ["--stage", "upsampler.0", "--side", "32", "--batch", "32"], UNET, None),
    "unet-train": ("timing", ["--stage", "upsampler.0", "--side", "32", "--batch", "32", "--train"], UNET, None),
    "decoder32": ("timing", ["--stage", "decoder", "--batch", "32"], UNET, None),
    "decoder32-train": ("timing", ["--stage", "decoder", "--batch", "32", "--train"], UNET, None),
    "prior": (None, ["--stage", "prior", "--batch", "2"], TRANSFORMER, 25),
    "decoder": (None, ["--stage", "decoder", "--batch", "2"], UNET, 25),
    "upsampler": (None, ["--stage", "upsampler.0", "--batch", "1"], UNET, 7),
    "kandinsky-decoder": ("kandinsky-full", ["--stage", "decoder", "--batch", "2"], UNET, None),
    "kandinsky21-decoder": ("kandinsky21-full", ["--stage", "decoder", "--batch", "2"], UNET, None),
    "kandinsky-autoencoder": ("kandinsky-full", ["--stage", "autoencoder"], UNET, None),
    "stable-decoder": ("stable-full-l", ["--stage", "decoder", "--batch", "2"], UNET, None),
    "stable-autoencoder": ("stable-full-l", ["--stage", "autoencoder"], UNET, None),
    "glide-decoder": ("glide-full", ["--stage", "decoder", "--batch", "2"], UNET, None),
    "glide-upsampler": ("glide-full", ["--stage", "upsampler.0", "--batch", "1"], UNET, None),
    "adm-decoder": ("adm-full-64", ["--stage", "decoder", "--batch", "1"], UNET, None),
    "adm-upsampler": ("adm-full-64", ["--stage", "upsampler.0", "--batch", "1"], UNET, None),
    "laion-prior": ("laion-full", ["--stage", "prior", "--batch", "2"], TRANSFORMER, 63),
    "laion-decoder": ("laion-full", ["--stage", "decoder", "--batch", "2"], UNET, None),
    "adm-256": ("adm-full-256", ["--stage", "decoder", "--batch", "1"], UNET, None),
}

DEFAULT = ["unet", "unet-train", "decoder32", "decoder32-train", "bundled"]


def environment(threads):
    """The same number of threads for both sides."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}


def memory_of_gpu():
    """Bytes of the GPU that are taken, by all processes."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()[0]) << 20


class Side:
    """A program that makes a call for every line and says what it took."""

    def __init__(self, command, arguments, sharing=None):
        self.command = [str(part) for part in command]
        self.taken_before = None
        if arguments.device != "cpu":
            self.taken_before = memory_of_gpu()
            self.command += ["--device", arguments.device]
        threads = arguments.threads
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            self.command, stdin=pipe, stdout=pipe, text=True, env=environment(threads), bufsize=1
        )
        loading = self.read()
        self.share = loading["binding"] / sharing if sharing else 0
        self.peak = None
        self.skipped = any(self.call() is None for _ in range(WARM_UP))
        if self.taken_before is not None:
            self.peak = memory_of_gpu() - self.taken_before

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"no answer from {' '.join(self.command)}")
        return json.loads(line)

    def call(self):
        """Seconds of one call, with its share of what is computed once; None if this side cannot make it."""
        time.sleep(PAUSE)
        self.process.stdin.write("\n")
        answer = self.read()
        if "skipped" in answer:
            print(f"{'':24}skipped: {answer['skipped']}", flush=True)
            return None
        if self.taken_before is None:
            self.peak = answer["peak_memory"]
        return answer["seconds"] + self.share

    def finish(self):
        self.process.stdin.close()
        self.process.wait()


def pairs(ours, theirs, count):
    """Seconds of `count` pairs of calls, one after the other."""
    return None if theirs.skipped else [(ours.call(), theirs.call()) for _ in range(count)]


def quartiles(values):
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def spread(values, form):
    low, middle, high = quartiles(values)
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"


def bytes_as(count):
    return "-" if count is None else f"{count / 1e9:.2f} GB"


def heads():
    columns = f"{'case':20}{'PyTorch':24}{'ours, s':>26}{'PyTorch, s':>26}"
    print(f"{columns}{'ours / PyTorch':>24}{'memory':>20}\n{'-' * 138}", flush=True)


def row(case, variant, measured, ours, theirs):
    first, second = zip(*measured)
    ratios = [a / b for a, b in measured]
    memory = f"{bytes_as(ours.peak)} / {bytes_as(theirs.peak)}"
    cells = f"{spread(first, '.4f'):>26}{spread(second, '.4f'):>26}{spread(ratios, '.2f'):>24}{memory:>20}"
    print(f"{case:20}{variant:24}{cells}", flush=True)
    return statistics.median(ratios), variant


def compare_calls(case, arguments):
    """One case of single calls, against every variant."""
    size, options, variants, sharing = CALLS[case]
    model = folder(arguments, size or arguments.size)
    precision = ["--precision", arguments.precision]
    ours = Side([arguments.bin / "time_calls", "--model", model, *options, *precision], arguments, sharing)
    script = [sys.executable, HERE / "reference_calls.py", "--model", model, *options]
    rows = []
    for variant in arguments.variants or variants:
        theirs = Side([*script, "--variant", variant], arguments, sharing)
        measured = pairs(ours, theirs, arguments.pairs)
        if measured:
            rows.append(row(case, variant, measured, ours, theirs))
        theirs.finish()
    ours.finish()
    for precision in ("f32", "bf16"):
        if same := [found for found in rows if ("bf16" in found[1]) == (precision == "bf16")]:
            # by ratio and not by seconds: the two of a pair saw the same machine, two rows did not
            ratio, variant = max(same)
            print(f"{case:20}{ratio:.2f} times PyTorch's best {precision} ({variant})", flush=True)
    print(flush=True)


def bundled(arguments):
    """The bundled model's picture; the first of the process does not count."""
    ours = Side([arguments.bin / "time_calls", "--stage", "picture", "--precision", arguments.precision], arguments)
    seconds = [ours.call() for _ in range(arguments.pairs)]
    ours.finish()
    text = f"after {WARM_UP} others {spread(seconds, '.2f')} s, memory {bytes_as(ours.peak)}"
    print(f"{'bundled':20}{text}\n", flush=True)


def pictures(arguments):
    """A caption to a picture, once on each side."""
    model = folder(arguments, arguments.size)
    timings = arguments.work / "timings.json"
    steps = ["--prior-steps", "25", "--decoder-steps", "25", "--upsampler-steps", "7"]
    out = ["--timings", timings, "--out", arguments.work / "picture.png"]
    command = [arguments.bin / "text_to_image", "a cat", "--model", model, *steps, *out]
    start = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, env=environment(arguments.threads), capture_output=True)
    whole = time.perf_counter() - start
    report = json.loads(timings.read_text())
    loading = sum(stage["seconds_loading"] for stage in report["stages"].values())
    ours = sum(stage["seconds"] for stage in report["stages"].values()) - loading
    print_picture("ours", ours, loading, whole, report["peak_resident_bytes"])
    for variant in ("eager", "channels_last"):
        if arguments.variants and variant not in arguments.variants:
            continue
        command = [sys.executable, HERE / "reference_picture.py", "--model", model, "--variant", variant]
        start = time.perf_counter()
        done = subprocess.run(
            [str(part) for part in command],
            check=True, env=environment(arguments.threads), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        whole = time.perf_counter() - start
        found = json.loads(done.stdout.splitlines()[-1])
        print_picture(f"diffusers, {variant}", found["seconds"], found["loading"], whole, found["peak_memory"])
        ratio = ours / found["seconds"]
        print(f"{'':20}ours / diffusers: {ratio:.2f} without loading", flush=True)


def print_picture(name, seconds, loading, whole, memory):
    text = f"{seconds:8.1f} s, loading {loading:.1f} s, process {whole:.1f} s, memory {bytes_as(memory)}"
    print(f"{'picture':20}{name:24}{text}", flush=True)


def folder(arguments, size):
    """The folder of a size, made if it is not there."""
    path = arguments.work / size
    family, _, own = size.partition("-")
    if family in ("glide", "adm", "laion"):
        if not path.exists():
            command = [sys.executable, REFERENCE / f"{family}_reference.py", "--size", own, "--out", path]
            subprocess.run([str(part) for part in [*command, "--dtype", "f16"]], check=True, stdout=subprocess.DEVNULL)
        return path
    index = (path / "decoder" if family.startswith("kandinsky") else path) / "model_index.json"
    if not index.exists():
        if family in ("kandinsky", "kandinsky21", "stable"):
            options = ["--size", own, "--out", path, "--dtype", "f16"]
            command = [sys.executable, REFERENCE / f"{family}_folders.py", *options]
        else:
            command = [sys.executable, REFERENCE / "karlo_folders.py", "--size", size, "--out", path]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=Path, default=Path("target/release/examples"), help="folder of the examples")
    parser.add_argument("--work", type=Path, required=True, help="folder for models")
    parser.add_argument("--cases", nargs="+", choices=[*CALLS, "bundled", "picture"], default=DEFAULT)
    parser.add_argument("--pairs", type=int, default=10, help="pairs of calls for each row")
    parser.add_argument("--size", default="full", help="of the folder for prior, decoder, upsampler and picture")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of both sides")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for both sides")
    parser.add_argument("--precision", default="f32", choices=["f32", "f16", "bf16"], help="in which ours computes")
    parser.add_argument("--variants", nargs="+", help="variants of PyTorch, if not all")
    arguments = parser.parse_args()
    if arguments.pairs < 1:
        sys.exit("--pairs must be at least 1")
    if arguments.device != "cpu" and "picture" in arguments.cases:
        sys.exit("the case picture is for the CPU")
    arguments.work.mkdir(parents=True, exist_ok=True)
    heads()
    others = {"bundled": bundled, "picture": pictures}
    for case in arguments.cases:
        others[case](arguments) if case in others else compare_calls(case, arguments)


if __name__ == "__main__":
    main()
