"""Converts a PyTorch pickle (.pt, .pth, .bin, .ckpt) to safetensors.

    python tools/convert_pickle.py model.ckpt model.safetensors [--strip model.]

A pickle can run any code when it is opened. This script asks PyTorch to read tensors only, which
is safer but has been broken before: run it where it can do no harm, on files from people you trust.
"""

import argparse
import zipfile

import torch
from safetensors.torch import save_file


def tensors(checkpoint):
    """The dictionary of tensors, wherever the checkpoint keeps it."""
    if isinstance(checkpoint, (tuple, list)):  # Karlo's statistics of CLIP
        checkpoint = dict(zip(("mean", "std"), checkpoint, strict=True))
    for key in ("state_dict", "model", "module"):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            return tensors(checkpoint[key])
    return {k: v for k, v in checkpoint.items() if isinstance(v, torch.Tensor)}


def load(path):
    """A pickle, or a TorchScript archive (OpenAI's CLIP), whose tensors are read without running it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return dict(torch.jit.load(path, map_location="cpu").state_dict())
    return torch.load(path, map_location="cpu", weights_only=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pickle")
    parser.add_argument("safetensors")
    parser.add_argument("--strip", default="", help="prefix to remove from every name")
    arguments = parser.parse_args()
    checkpoint = load(arguments.pickle)
    found = {
        name.removeprefix(arguments.strip): tensor.contiguous().clone()
        for name, tensor in tensors(checkpoint).items()
        if name.startswith(arguments.strip)
    }
    if not found:
        raise SystemExit(f"{arguments.pickle}: no tensor whose name begins with {arguments.strip!r}")
    save_file(found, arguments.safetensors, metadata={"format": "pt"})
    print(f"{arguments.safetensors}: {len(found)} tensors")


if __name__ == "__main__":
    main()
