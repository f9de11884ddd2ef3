"""A tokenizer's folder as the installed version of transformers saves it, from that of a small Karlo.

    pip install transformers==5.24.0 pillow && python writers.py ../../tests/fixtures/writers/transformers_5
    pip install transformers==4.57.6 pillow && python writers.py ../../tests/fixtures/writers/transformers_4

PyTorch is not needed. Nothing is added to what the library writes.
"""

import argparse
from pathlib import Path

from transformers import CLIPTokenizerFast

SOURCE = Path(__file__).resolve().parents[2] / "tests/fixtures/karlo/variation/tokenizer"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    CLIPTokenizerFast.from_pretrained(SOURCE).save_pretrained(parser.parse_args().folder)


if __name__ == "__main__":
    main()
