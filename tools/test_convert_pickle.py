"""Tests of `convert_pickle.py`: `python tools/test_convert_pickle.py`."""

import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import convert_pickle
import torch
from packaging import version
from safetensors import safe_open

CONVERTER = Path(__file__).with_name("convert_pickle.py")


class Harmful:
    """Would make a file if a pickle of it were opened as usual."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Converter(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def convert(self, value, *options, out="out.safetensors"):
        source = self.folder / "in.pth"
        if isinstance(value, bytes):
            source.write_bytes(value)
        else:
            torch.save(value, source)
        command = [sys.executable, CONVERTER, source, self.folder / out, *options]
        return subprocess.run(command, capture_output=True, text=True)

    def read(self):
        with safe_open(self.folder / "out.safetensors", "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()

    def refused(self, value, *texts, **named):
        run = self.convert(value, **named)
        self.assertEqual(run.returncode, 1, run.stderr)
        self.assertNotIn("Traceback", run.stderr)
        for text in texts:
            self.assertIn(text, run.stderr)

    def test_the_averaged_model_is_taken(self):
        one, other = torch.ones(2), torch.zeros(2)
        run = self.convert({"model": {"w": other}, "ema_model": {"w": one}, "step": 3})
        self.assertIn("left out: model, step", run.stdout)
        tensors, _ = self.read()
        self.assertTrue(torch.equal(tensors["w"], one))

    def test_a_decoder_s_averages_take_the_place_of_its_unets(self):
        one, other = torch.ones(2), torch.zeros(2)
        self.convert({"model": {"unets.0.w": other, "betas": other}, "ema": {"0.ema_model.w": one}})
        tensors, _ = self.read()
        self.assertTrue(torch.equal(tensors["unets.0.w"], one))
        self.assertEqual(sorted(tensors), ["betas", "unets.0.w"])

    def test_the_release_is_noted(self):
        for saved in (version.parse("1.0.3"), "1.0.3"):
            self.convert({"model": {"w": torch.ones(1)}, "version": saved})
            self.assertEqual(self.read()[1]["dalle2_pytorch"], "1.0.3")
        self.convert({"model": {"w": torch.ones(1)}, "version": "1.4.6.post1"})
        self.assertEqual(self.read()[1]["dalle2_pytorch"], "1.4.6")
        run = self.convert({"model": {"w": torch.ones(1)}, "version": "new"})
        self.assertIn("left out: the release", run.stdout)

    def test_the_release_of_older_libraries_is_read(self):
        # {"_version": _Version(0, (1, 0, 3), None, None, None, None)}, as packaging up to 25 has it
        numbers = b"(K\0K\1K\0K\3\x87NNNNt"
        state = b"}X\x08\0\0\0_versioncpackaging.version\n_Version\n" + numbers + b"\x81s"
        saved = b"\x80\x02cpackaging.version\nVersion\n)\x81" + state + b"b."
        self.assertEqual(str(convert_pickle.Reader(io.BytesIO(saved)).load()), "1.0.3")

    def test_nothing_is_run(self):
        harm = self.folder / "harm"
        run = self.convert({"model": {"w": torch.ones(1)}, "other": Harmful(harm)})
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertFalse(harm.exists())

    def test_a_configuration_is_written_once(self):
        config = {"prior": {"net": {"dim": 8}, "sizes": (1, 2)}}
        checkpoint = {"model": {"w": torch.ones(1)}, "config": config}
        self.convert(checkpoint)
        path = self.folder / "prior_config.json"
        self.assertEqual(json.loads(path.read_text())["prior"]["sizes"], [1, 2])
        path.write_text("own")
        self.assertIn("stays as it is", self.convert(checkpoint).stdout)
        self.assertEqual(path.read_text(), "own")

    def test_a_configuration_that_json_cannot_hold_is_left_out(self):
        rings = {"prior": {}}
        rings["prior"]["again"] = rings
        for config in ({"prior": {"x": float("nan")}}, rings, {"prior": {}, "decoder": {}}, {"prior": torch.ones(1)}):
            run = self.convert({"model": {"w": torch.ones(1)}, "config": config})
            self.assertEqual(run.returncode, 0, run.stderr)
            self.assertIn("left out: the configuration", run.stdout)
            self.assertFalse((self.folder / "prior_config.json").exists())

    def test_a_configuration_of_another_kind_is_named(self):
        run = self.convert({"model": {"w": torch.ones(1)}, "config": [1, 2]})
        self.assertIn("left out: the configuration", run.stdout)

    def test_other_names(self):
        run = self.convert({"a.w": torch.ones(1), "b": torch.ones(1), 3: torch.ones(1)}, "--strip", "a.")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("left out: 3", run.stdout)
        self.assertEqual(self.read()[0].keys(), {"w"})

    def test_what_is_refused(self):
        one = torch.ones(1)
        self.refused(b"", "in.pth", "damaged")
        self.refused(b"nothing of the kind", "in.pth", "damaged")
        self.refused({"a": 1}, "no tensor")
        self.refused([one], "no tensor")
        self.refused({"module.w": one, "w": one}, "'w'")
        self.refused({"w": torch.ones(3, 3).to_sparse()}, "no tensor", "w")
        self.refused({"w": torch.ones(1).expand(1 << 40)}, "w:", "bytes")
        self.refused({"w": one}, "no such folder", out="none/out.safetensors")
        self.refused({"w": one}, "the pickle itself", out="in.pth")
        self.refused({"w": one}, "not a regular file", out=".")
        around = {}
        around["model"] = around
        self.refused(around, "no tensor")
        os.mkfifo(self.folder / "pipe")
        self.refused({"w": one}, "not a regular file", out="pipe")

    def test_the_file_is_as_readable_as_others(self):
        self.convert({"w": torch.ones(1)})
        (self.folder / "other").touch()
        modes = {(self.folder / name).stat().st_mode for name in ("other", "out.safetensors")}
        self.assertEqual(len(modes), 1)


if __name__ == "__main__":
    unittest.main()
