"""What the comparisons of models with latents share: runs of both sides, for every seed and batch."""

import sys
from pathlib import Path

from PIL import Image

from karlo_parity import PERTURBATION, distance, rust
from karlo_reference import perturb, save


def compare(arguments, table, label, sources, *, load, run, scales, flags, only=None):
    """All cases of one row: seeds, batches and guidance, with and without moved weights. `load` gives the
    reference's pipelines, `run` runs them with what is asked; `only(trace, scale)` leaves out entries."""
    reference = load()
    moved = [[perturb(part, PERTURBATION, index) for part in load()] for index in range(arguments.scatter_runs)]
    for name, guidance in scales.items():
        for seed in arguments.seeds:
            for batch in arguments.batches:
                case = arguments.work / f"{label.replace(' ', '_')}-{name}-{seed}-{batch}"
                case.mkdir(parents=True, exist_ok=True)
                chosen = [sources[(seed + index) % len(sources)] for index in range(batch)]
                inputs = [Image.open(path) if isinstance(path, Path) else path for path in chosen]
                asked = {"steps": arguments.steps, "guidance": guidance}
                noise, trace, _ = run(reference, inputs, seed=seed, **asked)
                save(case / "noise.safetensors", noise, {"seed": seed})
                if only:
                    only(trace, name)
                for pipelines in moved:
                    _, other, _ = run(pipelines, inputs, noise=noise, **asked)
                    table.add((label, name), "scatter", distance(other, trace))
                found = rust(arguments, chosen, case, guidance, flags)
                table.add((label, name), "rust", distance(found, trace))
                print(".", end="", file=sys.stderr, flush=True)
    print(f" {label}", file=sys.stderr)
