"""What the `karlo_*` tools share: reading and writing the files of a folder."""

import json
import os
from pathlib import Path

# Both must be set before the libraries are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402


def quiet():
    """One thread, no gradients, and no remarks of the libraries on what is done here on purpose."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def component(folder, name):
    """The configuration and the tensors of one component, from one file or from shards."""
    folder = Path(folder) / name
    config = json.loads((folder / "config.json").read_text())
    (index,) = list(folder.glob("*.safetensors.index.json")) or [None]
    if index:
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        files = [path.name for path in folder.glob("*.safetensors")]
        assert len(files) == 1, f"{folder} holds {len(files)} weight files"
    state = {}
    for file in files:
        state.update(load_file(folder / file))
    return config, state


def rename(key, table):
    """`key` with its module renamed by `table`; the key itself can be in the table too."""
    if key in table:
        return table[key]
    module, _, leaf = key.rpartition(".")
    return f"{table[module]}.{leaf}"


def write_weights(path, state):
    """One safetensors file, its folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    print(f"{path.stat().st_size:>13,}  {path.name}")


def write_json(path, value, indent=2):
    """One JSON file, its folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
