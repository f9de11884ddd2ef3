"""One caption to one picture by diffusers' pipeline, and what it took, as one line of JSON.

    python reference_picture.py --model DIR --variant channels_last
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "reference"))

THREADS = os.environ.get("OMP_NUM_THREADS")  # before `karlo_files` sets one

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

import torch  # noqa: E402

from karlo_reference import load_pipeline  # noqa: E402
from reference_calls import peak_memory  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder in the diffusers layout")
    parser.add_argument("--variant", choices=("eager", "channels_last"), default="eager", help="of the U-Nets")
    parser.add_argument("--prompt", default="a cat")
    parser.add_argument("--steps", nargs=3, type=int, default=[25, 25, 7], help="prior, decoder, super-resolution")
    arguments = parser.parse_args()
    quiet()
    torch.set_num_threads(int(THREADS or torch.get_num_threads()))
    start = time.perf_counter()
    pipeline = load_pipeline(arguments.model)
    if arguments.variant == "channels_last":
        for name in ("decoder", "super_res_first", "super_res_last"):
            getattr(pipeline, name).to(memory_format=torch.channels_last)
    loading = time.perf_counter() - start
    steps = dict(zip(("prior", "decoder", "super_res"), arguments.steps))
    start = time.perf_counter()
    pipeline(arguments.prompt, **{f"{stage}_num_inference_steps": count for stage, count in steps.items()})
    seconds = time.perf_counter() - start
    print(json.dumps({"loading": loading, "seconds": seconds, "peak_memory": peak_memory()}))


if __name__ == "__main__":
    main()
