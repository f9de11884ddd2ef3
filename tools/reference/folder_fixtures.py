"""Fixtures that are folders of a model with noise and traces of runs on it: written, or checked."""

import argparse
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

from common import SIZE_LIMIT
from karlo_files import quiet
from karlo_reference import save


def write(root, write_folders, compute, write_others):
    """Writes everything, and sees that it is small enough to be committed."""
    write_folders(root)
    write_others(root)
    for name, tensors, settings in compute(root):
        save(root / f"{name}.safetensors", tensors, settings)
    files = [path for path in root.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o644)
        assert path.stat().st_size <= SIZE_LIMIT, f"{path} is too large: {path.stat().st_size}"
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files):,} bytes")


def check(root, write_folders, compute):
    """Recomputes the folders' weights and the traces; another CPU may change the last bits."""
    with tempfile.TemporaryDirectory() as folder:
        write_folders(Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            committed = root / path.relative_to(folder)
            if path.is_file() and path.read_bytes() != committed.read_bytes():
                sys.exit(f"{committed} is not what is written today")
    for name, tensors, _ in compute(root):
        committed = load_file(root / f"{name}.safetensors")
        assert committed.keys() == tensors.keys(), name
        for key, value in tensors.items():
            difference = (committed[key] - value.float()).abs().double()
            print(f"{name:16} {key:32} largest difference {difference.max():.1e}, median {difference.median():.1e}")
            assert difference.median() <= 1e-5, f"{name}: {key}"


def main(description, root, write_folders, compute, write_others=lambda root: None):
    """The program: `write_folders` and `write_others` write below a root, `compute` gives the files beside the
    folders by name, tensors and settings. What `write_others` writes is not checked."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="recompute and compare, write nothing")
    arguments = parser.parse_args()
    quiet()
    if arguments.check:
        check(root, write_folders, compute)
    else:
        write(root, write_folders, compute, write_others)
