"""What every fixture module shares: random values, weight rounding and the file format.

A fixture is one safetensors file that holds

* ``weights.<key>``  the parameters under their ``state_dict`` keys, as f16. The module ran in
  f32 on exactly these values, because they were rounded to f16 before the run;
* ``input.<name>`` and ``output.<name>``  f32, integers and flags as i64 (f64 where a case says so);
* metadata: ``script``, ``torch``, ``diffusers``, ``transformers`` and ``config`` (JSON).

Random numbers come from numpy's PCG64, seeded by the name of the fixture, so that adding a case
leaves all others unchanged.
"""

import json
import math
import struct
import zlib

import diffusers
import numpy as np
import torch
import transformers
from torch import nn

#: Largest fixture allowed, in bytes.
SIZE_LIMIT = 100_000

_DTYPES = {
    torch.float64: ("F64", np.float64),
    torch.int64: ("I64", np.int64),
    torch.float32: ("F32", np.float32),
    torch.float16: ("F16", np.float16),
}


def deterministic():
    """Makes torch single threaded and as independent of the CPU as it allows."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.backends.mkldnn.enabled = False
    torch.set_grad_enabled(False)


def versions():
    """Library versions without local build tags such as ``+cpu``."""
    libraries = {"torch": torch, "diffusers": diffusers, "transformers": transformers}
    return {name: library.__version__.split("+")[0] for name, library in libraries.items()}


def to_json(value):
    """Compact JSON with sorted keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def round_f16(tensor):
    """The f32 tensor whose values are those of ``tensor`` rounded to f16."""
    return tensor.to(torch.float16).to(torch.float32)


class Fixture:
    """One fixture under construction: ``<crate>/tests/fixtures/<case>.safetensors``."""

    def __init__(self, script, crate, case, config):
        self.path = f"{crate}/tests/fixtures/{case}.safetensors"
        self.metadata = {"script": f"tools/reference/{script}", "config": to_json(config), **versions()}
        self.rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{crate}/{case}".encode())))
        self.tensors = {}

    def randn(self, *shape, scale=1.0):
        """Normally distributed f32 values from this fixture's generator."""
        return torch.from_numpy(scale * self.rng.standard_normal(shape)).to(torch.float32)

    def weights(self, module, prefix=""):
        """Randomises ``module``, stores its parameters under ``weights.<prefix>`` and returns it.

        Every parameter gets a non-trivial value, those initialized to zero or one too: norm gains
        1 + 0.1 n, biases 0.1 n, linear and convolution weights n / sqrt(fan in), free vectors and
        tables 0.5 n. A ``clip_std`` is 1 + 0.2 n.
        """
        module.eval()
        for key, parameter in sorted(module.named_parameters()):
            owner_name, _, name = key.rpartition(".")
            owner = module.get_submodule(owner_name)
            noise = self.randn(*parameter.shape)
            if isinstance(owner, (nn.LayerNorm, nn.GroupNorm)) and name == "weight":
                value = 1.0 + 0.1 * noise
            elif name == "bias":
                value = 0.1 * noise
            elif isinstance(owner, (nn.Linear, nn.Conv2d)):
                value = noise / math.sqrt(parameter[0].numel())
            elif name == "clip_std":
                value = 1.0 + 0.2 * noise
            else:
                value = 0.5 * noise
            parameter.copy_(round_f16(value))
        for key, value in module.state_dict().items():
            half = value.to(torch.float16)
            assert torch.equal(half.to(value.dtype), value), f"{key} is not representable in f16"
            self._put(f"weights.{prefix}{key}", half)
        return module

    def input(self, name, value):
        """Stores an input and returns it."""
        return self._put(f"input.{name}", value)

    def output(self, name, value):
        """Stores an output and returns it."""
        return self._put(f"output.{name}", value)

    def _put(self, name, value):
        assert name not in self.tensors, f"{name} stored twice"
        assert value.dtype in _DTYPES, f"{name}: {value.dtype} is not a fixture type"
        assert torch.isfinite(value).all(), f"{name} is not finite"
        self.tensors[name] = value.detach().clone().contiguous()
        return value

    def file(self):
        """The path of the fixture and its bytes.

        The format is written out here because the order in which the safetensors library stores
        metadata differs from run to run.
        """
        ordered = sorted(self.tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
        header = {"__metadata__": dict(sorted(self.metadata.items()))}
        chunks = []
        offset = 0
        for name, value in ordered:
            label, numpy_dtype = _DTYPES[value.dtype]
            data = value.numpy().astype(np.dtype(numpy_dtype).newbyteorder("<")).tobytes()
            header[name] = {
                "dtype": label,
                "shape": list(value.shape),
                "data_offsets": [offset, offset + len(data)],
            }
            chunks.append(data)
            offset += len(data)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        content = struct.pack("<Q", len(text)) + text + b"".join(chunks)
        assert len(content) <= SIZE_LIMIT, f"{self.path} has {len(content)} bytes"
        return self.path, content
