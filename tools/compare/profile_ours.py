"""Where the time of a call goes in this project, per operation, by Linux' `perf`.

    python profile_ours.py --bin target/release/examples --model DIR --stage decoder --batch 32 --train

Beside it stands PyTorch's own table: `reference_calls.py --profile N` with the same arguments. One
thread by default, where shares are seconds: nobody waits. Operations are told by the names of
functions on the stack; each line says which layer asked for it, or that it is of the way back.
"""

import argparse
import collections
import json
import os
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

#: What an operation is called, and how it is known: the first that a stack has, from its top.
OPERATIONS = [
    r"unclip_nn::(kernels::\w+(?:::[a-z]\w*)?)",
    r"::(?:float|int|bool)_(?!tensor)([a-z]\w*)",
    r"burn_flex::(ops::\w+::\w+)",
    r"as burn_backend::backend::ops::\w+(?:::\w+)*>::(\w+)",
    r"as unclip_nn::fused::FusedBackend>::(\w+)",
    r"unclip_train::(gradients::\w+|ema::\w+)",
    r"(burn_optim::[a-z_]+(?:::[a-z_]+)?)",
    r"burn_flex::(tensor::\w+|simd::\w+(?:::\w+)*|zip::\w+)",
]

#: Kinds of operations, for the summary: the first that fits a name.
KINDS = [
    ("gradients of 3x3 convolutions", r"conv_grad"),
    ("3x3 convolutions", r"winograd|conv::|conv3x3"),
    ("1x1 convolutions", r"conv1x1"),
    ("matrix products", r"matmul"),
    ("attention", r"attention::"),
    ("norms, SiLU, GELU", r"norm|silu|gelu|pointwise"),
    ("doubling and halving", r"resample"),
    ("sums", r"^(add|binary_op)|ops::binary"),
    ("joining, reordering, clearing", r"cat|reshape|mem(move|set|cpy)|copy|aligned|clear_page|contiguous"),
    ("optimizer, averages", r"burn_optim|gradients::|ema::"),
]

#: Which layer asked for it.
LAYERS = r"unclip_nn::(?!kernels|fused|ops)((?:unet::)?\w+::[A-Za-z]\w*)|(unclip_train::\w+|burn_optim)|(unclip_\w+::train)"

#: The gradient of an operation.
BACKWARD = re.compile(r">::backward$|autodiff::ops::backward::(unary|binary)")

#: Loading, which is no call.
LOADING = re.compile("checkpoint|tokenizer|unclip::bundle|StageConfig|NoiseSource|serde_json")


def record(arguments, folder):
    """Runs the calls under perf; gives the median seconds of a call and the stacks."""
    command = [arguments.bin / "time_calls", "--pool", "--stage", arguments.stage, "--batch", arguments.batch]
    command += ["--model", arguments.model] if arguments.model else []
    command += ["--side", arguments.side] if arguments.side else []
    command += ["--train"] if arguments.train else []
    data = folder / "perf.data"
    perf = ["perf", "record", "-F", "199", "--call-graph", "dwarf,65528", "-o", data, "--"]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(
        [str(part) for part in perf + command],
        input="\n" * arguments.calls, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, check=True,
    )  # fmt: skip
    seconds = [answer["seconds"] for line in done.stdout.splitlines() if "seconds" in (answer := json.loads(line))]
    script = ["perf", "script", "--no-inline", "-i", str(data), "-F", "ip,sym"]
    text = subprocess.run(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    stacks = [[line.split(None, 1)[-1] for line in part.strip().splitlines()] for part in text.split("\n\n")]
    return statistics.median(seconds), [stack for stack in stacks if stack and not any(map(LOADING.search, stack))]


def operation(stack):
    for pattern in OPERATIONS:
        for frame in stack:
            if found := re.search(pattern, frame):
                return found[1].removeprefix("kernels::")
    return stack[0]


def layer(stack):
    if any(map(BACKWARD.search, stack)):
        return "way back"
    for frame in stack:
        if found := re.search(LAYERS, frame):
            return next(group for group in found.groups() if group)
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=Path, default=Path("target/release/examples"), help="folder of the examples")
    parser.add_argument("--model", type=Path, help="folder of a model, if not the bundled one")
    parser.add_argument("--stage", required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--side", type=int, help="of the pictures, if not the model's own")
    parser.add_argument("--train", action="store_true", help="a call is a training step")
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--least", type=float, default=0.4, help="smallest share that is shown, in per cent")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds, stacks = record(arguments, Path(folder))
    counts = collections.Counter((operation(stack), layer(stack)) for stack in stacks)
    print(f"{seconds * 1e3:.1f} ms a call, {len(stacks)} samples\n{'share':>7}  kind")
    kinds = collections.Counter()
    for (name, _), count in counts.items():
        kinds[next((kind for kind, pattern in KINDS if re.search(pattern, name)), "other")] += count
    for kind, count in kinds.most_common():
        print(f"{100 * count / len(stacks):6.1f}%  {kind}")
    print(f"\n{'share':>7}{'ms':>9}  {'operation':44}asked by")
    for (name, asked), count in counts.most_common():
        share = count / len(stacks)
        if 100 * share >= arguments.least:
            print(f"{100 * share:6.1f}%{share * seconds * 1e3:9.2f}  {name[:42]:44}{asked}")


if __name__ == "__main__":
    main()
