"""Regenerates every reference fixture of the workspace.

    python make_fixtures.py            write the fixtures
    python make_fixtures.py --check    compare with the files on disk, write nothing
"""

import argparse
import os
import sys
from pathlib import Path

# Both must be set before the libraries are loaded.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
sys.dont_write_bytecode = True

from safetensors.torch import load  # noqa: E402

import common  # noqa: E402
import fixtures_autoencoder  # noqa: E402
import fixtures_clip  # noqa: E402
import fixtures_core  # noqa: E402
import fixtures_decoder  # noqa: E402
import fixtures_nn  # noqa: E402
import fixtures_pictures  # noqa: E402
import fixtures_prior  # noqa: E402
import fixtures_train  # noqa: E402
import fixtures_upsample  # noqa: E402

MODULES = (
    fixtures_core,
    fixtures_nn,
    fixtures_pictures,
    fixtures_clip,
    fixtures_prior,
    fixtures_decoder,
    fixtures_upsample,
    fixtures_autoencoder,
    fixtures_train,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only, fail on any difference")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parents[2],
        help="workspace root (default: the one this script lies in)",
    )
    arguments = parser.parse_args()

    common.deterministic()
    different = []
    for module in MODULES:
        for path, content in module.files():
            if path.endswith(".safetensors"):
                load(content)  # the library itself has to accept the file
            target = arguments.root / path
            if arguments.check:
                same = target.is_file() and target.read_bytes() == content
                print(f"{'same' if same else 'DIFFERENT':10}{path}")
                if not same:
                    different.append(path)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                print(f"{len(content):>7}  {path}")
    if different:
        sys.exit(f"{len(different)} files differ")


if __name__ == "__main__":
    main()
