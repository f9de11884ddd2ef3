"""Writes tests/fixtures/<family>/odd: a second folder of each family, of other sizes, without its weights.

    python bare_fixtures.py            writes the files
    python bare_fixtures.py --check    recomputes the traces, compares, writes nothing

The folders are those of the size `odd`, which differs from the published models wherever a configuration can
say so. Weights follow from their names (`hashed.py`): the tests make them again, by `shapes.json`, which has the
shapes of every file. Beside it lie the files of the folder that are no weights, noise and a trace.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

import karlo_files  # noqa: E402  (first: it sets the environment)

from safetensors.torch import load_file, save_file  # noqa: E402

import folder_fixtures  # noqa: E402
import hashed  # noqa: E402
import kandinsky21_folders  # noqa: E402
import kandinsky_folders  # noqa: E402
import kandinsky_reference  # noqa: E402
import stable_folders  # noqa: E402
import stable_reference  # noqa: E402
from karlo_fixtures import PROMPTS  # noqa: E402

ROOT = Path(__file__).resolve().parents[2] / "tests" / "fixtures"

#: Families: what writes a folder, and what runs it.
FAMILIES = {
    "kandinsky": (kandinsky_folders, kandinsky_reference),
    "kandinsky21": (kandinsky21_folders, kandinsky_reference),
    "stable": (stable_folders, stable_reference),
}

STEPS = (4, 4)

#: Random weights make latents that are too large as it is.
GUIDANCE = (3.0, 2.0)


def fill(folder):
    """Gives every file of weights in a folder those of its tensors' names, and gives their shapes."""
    shapes = {}
    for path in sorted(Path(folder).rglob("*.safetensors")):
        name = path.relative_to(folder).as_posix()
        tensors = load_file(path)
        shapes[name] = {key: list(value.shape) for key, value in sorted(tensors.items())}
        save_file({key: hashed.weight(f"{name}.{key}", value.shape) for key, value in tensors.items()}, path)
    return shapes


def write_folder(family, folder):
    """The folder with its weights; gives their shapes."""
    FAMILIES[family][0].write_folder(folder, size="odd")
    return fill(folder)


def write_folders(root):
    """All files but those of weights, and the shapes of these."""
    for family in FAMILIES:
        target = root / family / "odd"
        with tempfile.TemporaryDirectory() as folder:
            shapes = write_folder(family, folder)
            for path in Path(folder).rglob("*.safetensors"):
                path.unlink()
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target / "model")
        (target / "shapes.json").write_text(json.dumps(shapes) + "\n", encoding="utf-8")


def compute(root):
    """Noise and trace of each family."""
    for family, (_, reference) in FAMILIES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_folder(family, folder)
            pipelines = reference.load(folder)
        noise, trace, _ = reference.run(pipelines, PROMPTS, steps=STEPS, guidance=GUIDANCE, seed=7)
        yield f"{family}/odd/noise", noise, {"steps": STEPS, "guidance": GUIDANCE}
        yield f"{family}/odd/trace", trace, {"steps": STEPS, "guidance": GUIDANCE}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="recompute and compare, write nothing")
    karlo_files.quiet()
    if parser.parse_args().check:
        folder_fixtures.check(ROOT, write_folders, compute)
    else:
        write_folders(ROOT)
        for name, tensors, settings in compute(ROOT):
            folder_fixtures.save(ROOT / f"{name}.safetensors", tensors, settings)


if __name__ == "__main__":
    main()
