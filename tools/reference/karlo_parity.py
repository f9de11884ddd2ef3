"""The whole comparison of this implementation with diffusers, from nothing, as one table.

    cargo build --release --example text_to_image --example image_variation
    python karlo_parity.py --work DIR
    python karlo_parity.py --work DIR --reference-only      without the Rust side
    python karlo_parity.py --work DIR --bin target/release/examples --sizes tiny --seeds 0 --steps 5 5 3

Makes the folders, runs diffusers and the Rust examples on the same recorded noise, and prints for
every trace entry how far they are apart, relative to the largest value of the reference. Each row
is all seeds and batches of a folder: the largest difference of all elements, and the median and the
99th percentile of the elements of the middle picture. (Of the middle one, because of what follows:
the rare picture that a sign turned says nothing about the others.)

Beside it stands the reference's own scatter: the same figures for diffusers against itself with
every weight moved by one part in a million. The first steps of the decoder and the super-resolution
divide a difference by sqrt(alpha bar), up to 20,000, and clamp it. Where it then crosses zero the
sign of a rounding error decides, so pictures can only be as close as the reference is to itself.

The schedulers of the reference have their tables in f64, as this implementation has. With
`--tables f32`, diffusers as it is, the pictures are not judged: its rounded coefficients move them
by far more than the scatter.

Exits with an error if a text or image entry is further off than 1e-4, the embedding of the prior
further than 1e-3, or the median or 99th percentile of pictures more than `--factor` times the
scatter.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import karlo_folders  # noqa: E402
import karlo_reference  # noqa: E402

#: With the padding token inside; cut off at the end of the context; short.
PROMPTS = [
    "a red cat!",
    "a painting of two cats sitting on the moon, in the style of an old master; digital art, highly detailed",
    "dogs",
]

#: Folders: name, size, options.
FOLDERS = {
    "tiny": {"size": "tiny"},
    "odd": {"size": "odd", "dtype": "f16", "fields": "current"},
    "small": {"size": "small", "shards": 2, "dtype": "bf16"},
}

#: Guidance of prior and decoder, by what it is called in the table.
GUIDANCE = {"on": (4.0, 8.0), "off": (1.0, 1.0)}

#: The largest difference allowed, relative to the scale of the entry; pictures have no such limit.
LIMITS = {
    "text_encoder.pooled": 1e-4,
    "text_encoder.tokens": 1e-4,
    "text_encoder.mask": 0.0,
    "prior.embedding": 1e-3,
    "image_encoder.pixels": 1e-4,
    "image_encoder.embedding": 1e-4,
}

#: The relative change of the weights that shows the scatter of the reference.
PERTURBATION = 1e-6

#: Below this a picture is the same however small the scatter: rounding of the last bits.
FLOOR = 1e-6


def pictures(folder):
    """Three pictures of different shapes: waves, chequers and noise."""
    paths = []
    for index, (width, height) in enumerate([(50, 37), (64, 64), (33, 80)]):
        rng = np.random.Generator(np.random.PCG64(index))
        y, x = np.mgrid[:height, :width]
        waves = 127 + 120 * np.sin(x / (4 + index) + y / 9)
        chequers = 255 * ((x // 8 + y // (5 + index)) % 2)
        image = np.stack([waves, chequers, 255 * x / width], axis=-1) + rng.normal(0, 12, (height, width, 3))
        paths.append(folder / f"picture-{index}.png")
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def rust(arguments, sources, case, guidance, flags):
    """Runs the Rust example on recorded noise and gives its trace. A model without a prior has no guidance of it, and
    the decoder's steps are the first."""
    trace = case / "trace.rust.safetensors"
    trace.unlink(missing_ok=True)
    steps = arguments.steps
    flags = {
        **flags,
        "--out": case / "rust",
        "--noise": case / "noise.safetensors",
        "--trace": trace,
        "--decoder-steps": steps[0] if guidance[0] is None else steps[1],
        "--decoder-guidance": guidance[1],
    }
    if set(sources) == {""}:
        command = [arguments.bin / "text_to_image", ""]
        flags["--n"] = len(sources)
    elif isinstance(sources[0], Path):
        command = [arguments.bin / "image_variation", *sources]
    else:
        prompts = case / "prompts.txt"
        prompts.write_text("".join(f"{prompt}\n" for prompt in sources), encoding="utf-8")
        command = [arguments.bin / "text_to_image"]
        flags["--prompts"] = prompts
        if guidance[0] is not None:
            flags.update({"--prior-steps": steps[0], "--prior-guidance": guidance[0]})
    command += [part for flag in flags.items() for part in flag]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)}\n{result.stdout}{result.stderr}")
    return load_file(trace)


def distance(trace, reference):
    """The absolute differences of each entry and item, relative to the largest value of the reference."""
    result = {}
    for name, expected in reference.items():
        if name not in trace or trace[name].shape != expected.shape:
            sys.exit(f"{name}: expected {list(expected.shape)}, found {list(getattr(trace.get(name), 'shape', []))}")
        difference = (trace[name].double() - expected.double()).abs() / expected.double().abs().max()
        result[name] = list(difference.flatten(1).numpy())
    return result


def moved(networks, seed):
    """Moves every weight of networks that are in no pipeline by `PERTURBATION` of itself, up or down at random."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in (parameter for network in networks for parameter in network.parameters()):
        sign = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
        parameter.data.mul_(1 + PERTURBATION * sign)


class Table:
    """Differences by row and trace entry, in the order of their first arrival."""

    def __init__(self):
        self.rows = {}

    def add(self, row, side, differences):
        for name, values in differences.items():
            self.rows.setdefault((*row, name), {}).setdefault(side, []).extend(values)

    @staticmethod
    def figures(items):
        """The maximum of all items; the median and the 99th percentile of the middle one."""
        median = np.median([np.median(item) for item in items])
        high = np.median([np.quantile(item, 0.99) for item in items])
        return max(item.max() for item in items), median, high

    def print_and_judge(self, factor, judge_pictures):
        """Prints the table and gives the number of failed rows."""
        heads = ["max", "median", "99 %"]
        print(f"{'':52}{'this implementation':>30}{'scatter of the reference':>32}")
        print(f"{'folder':16}{'guidance':10}{'entry':26}" + self.cells([*heads, *heads]))
        failures = 0
        for (folder, guidance, name), sides in self.rows.items():
            scatter = self.figures(sides["scatter"])
            cells = ["-", "-", "-"]
            verdict = ""
            if "rust" in sides:
                found = self.figures(sides["rust"])
                cells = [f"{value:.1e}" for value in found]
                if name in LIMITS:
                    good = found[0] <= LIMITS[name]
                else:
                    near = all(here <= max(factor * own, FLOOR) for here, own in zip(found[1:], scatter[1:]))
                    good = near or not judge_pictures
                verdict = "" if good else "  FAILED"
                failures += not good
            cells += [f"{value:.1e}" for value in scatter]
            print(f"{folder:16}{guidance:10}{name:26}" + self.cells(cells) + verdict)
        return failures

    @staticmethod
    def cells(texts):
        """Two groups of three columns."""
        columns = [f"{text:>10}" for text in texts]
        return "".join(columns[:3]) + "  " + "".join(columns[3:])


def compare(arguments, table, folder, variation, sources):
    """All cases of one folder: seeds, batches and guidance, with and without moved weights."""
    options = FOLDERS[folder]
    name = f"{folder} variation" if variation else folder
    model = arguments.work / name.replace(" ", "_")
    karlo_folders.write_folder(model, variation=variation, **options)

    def load():
        pipeline = karlo_reference.load_pipeline(model)
        return karlo_reference.exact_tables(pipeline) if arguments.tables == "f64" else pipeline

    reference = load()
    moved = [karlo_reference.perturb(load(), PERTURBATION, index) for index in range(arguments.scatter_runs)]
    for guidance_name, guidance in GUIDANCE.items():
        row = (name, guidance_name)
        for seed in arguments.seeds:
            for batch in arguments.batches:
                case = arguments.work / f"{model.name}-guidance-{guidance_name}-seed-{seed}-batch-{batch}"
                case.mkdir(parents=True, exist_ok=True)
                chosen = [sources[(seed + index) % len(sources)] for index in range(batch)]
                inputs = [Image.open(path) for path in chosen] if variation else chosen
                run = {"steps": arguments.steps, "guidance": guidance}
                noise, trace, _ = karlo_reference.run(reference, inputs, seed=seed, **run)
                settings = {**run, "inputs": [str(source) for source in chosen], "seed": seed}
                karlo_reference.save(case / "noise.safetensors", noise, settings)
                karlo_reference.save(case / "trace.safetensors", trace, settings)
                for pipeline in moved:
                    _, other, _ = karlo_reference.run(pipeline, inputs, noise=noise, **run)
                    table.add(row, "scatter", distance(other, trace))
                if not arguments.reference_only:
                    flags = {"--model": model, "--upsampler-steps": arguments.steps[2]}
                    found = rust(arguments, chosen, case, guidance, flags)
                    table.add(row, "rust", distance(found, trace))
                print(".", end="", file=sys.stderr, flush=True)
    print(f" {name}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for models, noise, traces and pictures")
    parser.add_argument("--bin", type=Path, default=Path("target/release/examples"), help="folder of the examples")
    parser.add_argument("--reference-only", action="store_true", help="only diffusers and its scatter")
    parser.add_argument("--sizes", nargs="+", choices=FOLDERS, default=list(FOLDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--steps", nargs=3, type=int, default=[25, 25, 7], help="prior, decoder, super-resolution")
    parser.add_argument("--tables", choices=("f32", "f64"), default="f64", help="of the reference's schedulers")
    parser.add_argument("--scatter-runs", type=int, default=2, help="how often the reference runs with moved weights")
    parser.add_argument("--factor", type=float, default=3.0, help="pictures may be this much further off than scatter")
    arguments = parser.parse_args()

    for example in ("text_to_image", "image_variation"):
        if not arguments.reference_only and not (arguments.bin / example).is_file():
            sys.exit(f"{arguments.bin / example} does not exist: build the examples, or use --reference-only")
    quiet()
    arguments.work.mkdir(parents=True, exist_ok=True)
    table = Table()
    for folder in arguments.sizes:
        compare(arguments, table, folder, False, PROMPTS)
        compare(arguments, table, folder, True, pictures(arguments.work))
    failures = table.print_and_judge(arguments.factor, arguments.tables == "f64")
    if failures:
        sys.exit(f"{failures} rows failed")


if __name__ == "__main__":
    main()
