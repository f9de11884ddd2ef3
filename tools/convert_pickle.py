"""Converts a PyTorch pickle (.pt, .pth, .bin, .ckpt) to safetensors.

    python tools/convert_pickle.py model.ckpt model.safetensors [--strip model.]

Of a checkpoint of training, what is converted is the averaged model if there is one, and else the model. A
configuration that a checkpoint holds (DALLE2-pytorch) is written beside it, as the file of the name that this
project reads.

A pickle can run any code when it is opened. Here it runs none: tensors and plain values are read, and whatever else
it names, such as the state of an optimizer, is left out. The file of a model that a program compiled (TorchScript,
OpenAI's CLIP) is read by PyTorch, which is safer than a pickle but has been broken before: run this where it can do
no harm, on files from people you trust.
"""

import argparse
import collections
import json
import pickle
import re
import types
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

#: Where checkpoints keep a model, the averaged one first.
MODELS = ("ema_model", "state_dict", "model", "module")

#: The functions by which a pickle makes tensors and plain values.
KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("builtins", "set"): set,
}


class Skipped:
    """Stands for an object of which nothing is known and nothing is done."""

    def __new__(cls, *_, **__):
        return super().__new__(cls)

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, _):
        pass

    def __setitem__(self, *_):
        pass

    def append(self, _):
        pass

    def extend(self, _):
        pass

    def __hash__(self):
        return id(self)


class Reader(pickle.Unpickler):
    """Reads what is known, and skips the rest. Storages are known to PyTorch, which asks for them itself."""

    def find_class(self, module, name):
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return KNOWN.get((module, name), Skipped)


def reader():
    """As `torch.load` takes it."""
    known = {"Unpickler": Reader, "load": lambda file, **named: Reader(file, **named).load(), "__name__": "reader"}
    return types.SimpleNamespace(**known)


def averaged_parts(checkpoint):
    """DALLE2-pytorch's decoder: its U-Nets as they were averaged, each under its number."""
    parts = {}
    for key, value in checkpoint.items():
        match = re.match(r"(\d+)\.ema_model\.(.*)", key)
        if match:
            parts[f"unets.{match[1]}.{match[2]}"] = value
    return parts


def tensors(checkpoint):
    """The dictionary of tensors, wherever the checkpoint keeps it."""
    if isinstance(checkpoint, (tuple, list)):  # Karlo's statistics of CLIP
        checkpoint = dict(zip(("mean", "std"), checkpoint, strict=True))
    if not isinstance(checkpoint, dict):
        return {}
    average = checkpoint.get("ema")
    parts = averaged_parts(average) if isinstance(average, dict) else {}
    for key in MODELS:
        if isinstance(checkpoint.get(key), dict):
            return {**tensors(checkpoint[key]), **parts}
    return {k: v for k, v in {**checkpoint, **parts}.items() if isinstance(v, torch.Tensor)}


def load(path):
    """A pickle, or a TorchScript archive (OpenAI's CLIP), whose tensors are read without running it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return dict(torch.jit.load(path, map_location="cpu").state_dict())
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader())


def plain(value):
    """Whether a value can stand in a JSON file, tuples as lists."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(plain(inner) for inner in value)
    return value is None or isinstance(value, (str, int, float, bool))


def configuration(checkpoint):
    """The name and the contents of a checkpoint's own configuration, if it has one."""
    config = checkpoint.get("config") if isinstance(checkpoint, dict) else None
    if not isinstance(config, dict) or not plain(config):
        return None
    found = [name for name in ("prior", "decoder") if name in config]
    return (f"{found[0]}_config.json", config) if len(found) == 1 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pickle")
    parser.add_argument("safetensors")
    parser.add_argument("--strip", default="", help="prefix to remove from every name")
    arguments = parser.parse_args()
    checkpoint = load(arguments.pickle)
    found = {
        name.removeprefix("module.").removeprefix(arguments.strip): tensor.contiguous().clone()
        for name, tensor in tensors(checkpoint).items()
        if name.removeprefix("module.").startswith(arguments.strip)
    }
    if not found:
        raise SystemExit(f"{arguments.pickle}: no tensor whose name begins with {arguments.strip!r}")
    save_file(found, arguments.safetensors, metadata={"format": "pt"})
    print(f"{arguments.safetensors}: {len(found)} tensors")
    config = configuration(checkpoint)
    if config:
        path = Path(arguments.safetensors).parent / config[0]
        path.write_text(json.dumps(config[1], indent=2) + "\n", encoding="utf-8")
        print(f"{path}: the configuration in the checkpoint")


if __name__ == "__main__":
    main()
