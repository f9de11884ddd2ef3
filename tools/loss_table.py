"""Condenses loss curves of training into a table, for the recipe of a model.

    python tools/loss_table.py out/shapes/*/loss.jsonl

Each row is the mean over a window of steps that ends at the given step. Needs Python only.
"""

import json
import sys
from pathlib import Path

ROWS = 10


def rows(path):
    """(step, mean loss, mean gradient norm, mean seconds) for ROWS windows of a curve."""
    # a run that was resumed may have repeated steps: the last report of a step counts
    reports = {}
    for line in path.read_text().splitlines():
        report = json.loads(line)
        reports[report["step"]] = report
    steps = sorted(reports)
    for row in range(ROWS):
        window = steps[len(steps) * row // ROWS : len(steps) * (row + 1) // ROWS]
        if window:
            mean = lambda key: sum(reports[s][key] for s in window) / len(window)
            yield window[-1], mean("loss"), mean("gradient_norm"), mean("seconds")


def main():
    for name in sys.argv[1:]:
        path = Path(name)
        print(f"\n| {path.parent.name}: up to step | loss | gradient norm | seconds a step |")
        print("|---|---|---|---|")
        for step, loss, norm, seconds in rows(path):
            print(f"| {step} | {loss:.4f} | {norm:.3f} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
