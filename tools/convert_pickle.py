"""Converts a PyTorch pickle (.pt, .pth, .bin, .ckpt) to safetensors.

    python tools/convert_pickle.py model.ckpt model.safetensors [--strip model.]

Of a checkpoint of training, what is converted is the averaged model if there is one, and else the model. A
configuration that a checkpoint holds (DALLE2-pytorch) is written beside it, as the file of the name that this
project reads, unless there is one already; the release that it was saved by is noted in the safetensors file. What
else it holds is named and left out.

A pickle can run any code when it is opened. Here it runs none: tensors and plain values are read, and whatever else
it names, such as the state of an optimizer, is left out. The file of a model that a program compiled (TorchScript,
OpenAI's CLIP) is read by PyTorch, which is safer than a pickle but has been broken before: run this where it can do
no harm, on files from people you trust.
"""

import argparse
import collections
import json
import os
import pickle
import re
import types
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

#: Where checkpoints keep a model, the averaged one first.
MODELS = ("ema_model", "state_dict", "model", "module")

#: Where checkpoints keep the decoder's averages, and what they know of themselves.
OTHERS = ("ema", "config", "version")

#: Dictionaries in dictionaries down to which a model is looked for.
DEPTH = 8

#: Bytes up to which a tensor may repeat what is stored once.
REPEATED = 64 << 20


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


class Release(tuple):
    """The numbers of a version, as older releases of `packaging` keep them in it."""

    def __new__(cls, _epoch=0, numbers=(), *_):
        return super().__new__(cls, numbers)


class Version(Skipped):
    """A version, of which the numbers are read: `(epoch, numbers, …)`, or `{"_version": Release, …}`."""

    numbers = ()

    def __setstate__(self, state):
        if isinstance(state, dict):
            state = (0, state.get("_version", ()))
        if isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], tuple):
            self.numbers = state[1]

    def __str__(self):
        return ".".join(str(number) for number in self.numbers)


#: The functions and classes by which a pickle makes tensors and plain values.
KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): torch._utils._rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("builtins", "set"): set,
    ("packaging.version", "Version"): Version,
    ("packaging.version", "_Version"): Release,
}


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


def is_compiled(path):
    """Whether it is a TorchScript archive (OpenAI's CLIP)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def load(path):
    """What a pickle holds, or the tensors of a TorchScript archive, which is not run."""
    if not Path(path).is_file():
        raise SystemExit(f"{path}: no such file")
    try:
        if is_compiled(path):
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader())
    except Exception as error:  # whatever a damaged file makes PyTorch raise
        what = next(iter(str(error).splitlines()), "")
        raise SystemExit(f"{path}: not a file that PyTorch wrote, or damaged: {type(error).__name__}: {what}") from None


def averaged_parts(checkpoint):
    """DALLE2-pytorch's decoder: its U-Nets as they were averaged, each under its number."""
    parts = {}
    for key, value in checkpoint.items():
        match = re.match(r"(\d+)\.ema_model\.(.*)", str(key))
        if match:
            parts[f"unets.{match[1]}.{match[2]}"] = value
    return parts


def tensors(checkpoint, depth=DEPTH):
    """The dictionary of tensors, wherever the checkpoint keeps it, and the names of what else is there."""
    if isinstance(checkpoint, (tuple, list)) and len(checkpoint) == 2:  # Karlo's statistics of CLIP
        checkpoint = dict(zip(("mean", "std"), checkpoint))
    if not isinstance(checkpoint, dict) or depth == 0:
        return {}, []
    average = checkpoint.get("ema")
    parts = averaged_parts(average) if isinstance(average, dict) else {}
    for key in MODELS:
        if isinstance(checkpoint.get(key), dict):
            found, left = tensors(checkpoint[key], depth - 1)
            known = {key, *OTHERS}
            return {**found, **parts}, [str(name) for name in checkpoint if name not in known] + left
    found = {**checkpoint, **parts}
    taken = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    return taken, [str(name) for name in found if name not in taken and name not in OTHERS]


def named(found, strip):
    """The tensors under their names without the prefix, in the form that safetensors keeps."""
    renamed = {}
    for name, tensor in found.items():
        name = name.removeprefix("module.")
        if not name.startswith(strip):
            continue
        name = name.removeprefix(strip)
        if not name or name in renamed:
            raise SystemExit(f"two tensors, or one without a name, would be called {name!r}; try another --strip")
        renamed[name] = whole(name, tensor.detach())
    return renamed


def whole(name, tensor):
    """The tensor in memory of its own."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise SystemExit(f"{name}: a tensor of a kind that is not read ({tensor.layout}, {tensor.device}, {tensor.dtype})")
    size = tensor.numel() * tensor.element_size()
    if size > max(tensor.untyped_storage().nbytes(), REPEATED):
        raise SystemExit(f"{name}: a tensor of {size} bytes, of which far fewer are in the file")
    return tensor.contiguous().clone()


def plain(value):
    """Whether a value can stand in a JSON file, tuples as lists."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(plain(inner) for inner in value)
    return value is None or isinstance(value, (str, int, float, bool))


def configuration(checkpoint):
    """The name and the text of a checkpoint's own configuration, if it has one of a kind that this project reads."""
    if not isinstance(checkpoint, dict) or checkpoint.get("config") is None:
        return None
    config = checkpoint["config"] if isinstance(checkpoint["config"], dict) else {}
    found = [name for name in ("prior", "decoder") if name in config]
    try:
        if len(found) == 1 and plain(config):
            return f"{found[0]}_config.json", json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (ValueError, RecursionError):
        pass
    print("left out: the configuration in the checkpoint, which is not that of one prior or decoder, or is not valid JSON")
    return None


def notes(checkpoint):
    """What is noted in the file: the release of DALLE2-pytorch, if the checkpoint says so."""
    version = checkpoint.get("version") if isinstance(checkpoint, dict) else None
    if version is None:
        return {"format": "pt"}
    release = re.match(r"\d+(\.\d+)*", str(version) if isinstance(version, (str, Version)) else "")
    if release is None:
        print("left out: the release in the checkpoint, which is no version")
        return {"format": "pt"}
    return {"format": "pt", "dalle2_pytorch": release[0]}


def place(source, path):
    """Where to write: a link's own place, and nothing that a file could not take the place of."""
    path = Path(path).resolve()
    if not path.parent.is_dir():
        raise SystemExit(f"{path.parent}: no such folder")
    if path.exists() and not path.is_file():
        raise SystemExit(f"{path}: exists and is not a regular file")
    if path == Path(source).resolve():
        raise SystemExit(f"{path}: that is the pickle itself")
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pickle")
    parser.add_argument("safetensors")
    parser.add_argument("--strip", default="", help="prefix to remove from every name; others are left out")
    arguments = parser.parse_args()
    path = place(arguments.pickle, arguments.safetensors)
    checkpoint = load(arguments.pickle)
    found, left = tensors(checkpoint)
    found = named(found, arguments.strip)
    if not found:
        beginning = f" whose name begins with {arguments.strip!r}" if arguments.strip else ""
        others = f"; there are {', '.join(left[:20])}" if left else ""
        raise SystemExit(f"{arguments.pickle}: no tensor{beginning}, and no model in it{others}")
    config = configuration(checkpoint)
    try:
        save_file(found, path, metadata=notes(checkpoint))
    except Exception as error:  # of the file system, by the library's own type
        raise SystemExit(f"{path}: cannot be written: {error}") from None
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
    print(f"{arguments.safetensors}: {len(found)} tensors")
    if left:
        print(f"left out: {', '.join(left[:20])}{' and others' if len(left) > 20 else ''}")
    if config:
        write_configuration(path.parent / config[0], config[1])


def write_configuration(path, text):
    """Writes a configuration, unless there is one."""
    if not path.exists():
        path.write_text(text, encoding="utf-8")
        print(f"{path}: the configuration in the checkpoint")
    elif path.read_text(encoding="utf-8", errors="replace") != text:
        print(f"{path} stays as it is; the checkpoint holds another, written if this is moved away")


if __name__ == "__main__":
    main()
