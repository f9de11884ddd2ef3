#!/usr/bin/env python3
"""Makes the seeds of the corpora from the repository's own fixtures: `python3 fuzz/seeds.py`."""

import json
import pathlib
import struct
import tarfile
import io
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests/fixtures"
CORPUS = ROOT / "fuzz/corpus"


def seed(target, name, data):
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def safetensors(tensors, notes=None):
    header, data = ({"__metadata__": notes} if notes else {}), b""
    for key, dtype, shape, values in tensors:
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def checkpoints():
    seed("checkpoint", "plain", safetensors([("a", "F32", [2, 2], floats(1, 2, 3, 4)), ("b", "F16", [2], b"\0<\0@")]))
    seed("checkpoint", "formats", safetensors([(d, d, [1], b"\0" * n) for d, n in [("F64", 8), ("BF16", 2), ("I64", 8), ("BOOL", 1), ("F8_E4M3", 1)]]))
    seed("checkpoint", "notes", safetensors([("a", "F32", [], floats(1))], {"format": "pt"}))
    seed("checkpoint", "nan", safetensors([("a", "F32", [2], floats(float("nan"), float("inf")))]))
    seed("checkpoint", "empty", safetensors([]))
    for name, start in [("pickle", b"\x80\x02}q\0."), ("zip", b"PK\3\4"), ("gguf", b"GGUF\3\0\0\0"), ("page", b"<!DOCTYPE html>"), ("pointer", b"version https://git-lfs.github.com/spec/v1\n")]:
        seed("checkpoint", name, start)
    noise = [("decoder.initial", "F32", [1, 3, 4, 4], floats(*[0.5] * 48)), ("decoder.steps", "F32", [1, 1, 3, 4, 4], floats(*[0.5] * 48))]
    seed("noise", "decoder", safetensors(noise))
    real = sorted(FIXTURES.glob("**/*.noise.safetensors"), key=lambda path: path.stat().st_size)
    for k, path in enumerate(real[:2]):
        seed("noise", f"fixture-{k}", path.read_bytes())


def indices():
    for name, index in [
        ("plain", {"metadata": {"total_size": 4}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}),
        ("absent", {"weight_map": {"a": "model-00002-of-00002.safetensors"}}),
        ("outside", {"weight_map": {"a": "../a.safetensors", "b": "/etc/passwd"}}),
    ]:
        seed("index", name, json.dumps(index).encode())


MODELS = ["karlo/tiny", "karlo/variation", "kandinsky/model", "kandinsky21/model", "laion/micro/model", "laion/early/model"]


def configs():
    folders = [FIXTURES / name for name in MODELS] + [ROOT / "assets/shapes"]
    for m, folder in enumerate(folders):
        found = [p for p in folder.rglob("*.json") if p.name not in ("vocab.json", "tokenizer.json")]
        # the order of Rust's paths: by their parts
        for c, path in enumerate(sorted(found, key=lambda p: p.relative_to(folder).parts)):
            seed("config", f"{m}-{c:02}", bytes([m, c]) + path.read_bytes())


def tokenizers():
    folder = ROOT / "unclip-clip/tests/fixtures/tokenizer"
    vocab, merges = (folder / "vocab.json").read_bytes(), (folder / "merges.txt").read_bytes()
    few = dict(list(json.loads(vocab).items())[:40])
    seed("tokenizer", "fixture", vocab + b"\0" + merges)
    seed("tokenizer", "few", json.dumps(few).encode() + b"\0#version: 0.2\ni n\n")
    for path in FIXTURES.glob("writers/*/tokenizer.json"):
        seed("tokenizer_json", path.parent.name, path.read_bytes())
    pieces = {"version": "1.0", "model": {"type": "Unigram", "unk_id": 3, "vocab": [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u2581", -1.0], ["a", -2.0]]}, "normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"}}
    seed("tokenizer_json", "pieces", json.dumps(pieces).encode())
    for k, text in enumerate(["a red ring", "größer 赤い 👩‍🚀", "a\0b\x1b[2J", "\u202eabc\ufffd", "x" * 300, "<|endoftext|> <|startoftext|>", "&amp; &#x41;"]):
        seed("caption", str(k), text.encode())


def png(width, height, chunks=()):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x80" * (3 * width) for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head)] + [chunk(*c) for c in chunks] + [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pictures():
    small = sorted((p for p in (FIXTURES / "pictures").rglob("*") if p.is_file() and p.stat().st_size < 6000), key=lambda p: p.stat().st_size)
    for path in small[:24]:
        seed("picture", path.name, path.read_bytes())
    seed("picture", "plain.png", png(4, 4))
    seed("picture", "gif", b"GIF89a\2\0\2\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\2\0\2\0\0\2\2D\n\0;")
    bmp = b"BM" + struct.pack("<IHHI", 70, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 24, 0, 16, 0, 0, 0, 0) + b"\x80" * 16
    seed("picture", "bmp", bmp)
    recipe = {"unclip": "0.1.0", "prompt": "a red ring", "seed": 7}
    text = json.dumps(recipe).encode()
    seed("recipe", "png", png(2, 2, [(b"iTXt", b"unclip\0\0\0\0\0" + text)]))
    seed("recipe", "compressed", png(2, 2, [(b"zTXt", b"unclip\0\0" + zlib.compress(text))]))
    seed("recipe", "json", text)


def shards():
    def tar(entries, form=tarfile.USTAR_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for name, data in entries:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return out.getvalue().rstrip(b"\0") + b"\0" * 1024

    picture = png(16, 16)
    for name, form in [("ustar", tarfile.USTAR_FORMAT), ("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT)]:
        seed("shard", name, tar([("0/größer" + "x" * 110 + ".png", picture), ("0/größer" + "x" * 110 + ".txt", b"a red ring")] if name != "ustar" else [("a.png", picture), ("a.json", b'{"caption": "a red ring"}')], form))
    seed("shard", "outside", tar([("../a.png", picture), ("../a.txt", b"a")]))
    seed("list", "lines", b"\0" + b'{"file_name": "a.png", "text": "a red ring"}\n{"file_name": "b.png", "captions": ["one", "two"]}\n')
    seed("list", "table", b"\1" + b'file_name,text\na.png,"a ""red"" ring"\n')


def plans():
    seed("plan", "few", b'preset = "small"\n[data]\npaths = ["a"]\n[decoder.train]\nsteps = 5\n')
    seed("plan", "lists", b"[[upsampler]]\ncrop = 8\n[evaluation]\ncaptions = [\"a\"]\n")
    seed("plan", "emoji", (ROOT / "tools/data/emoji.toml").read_bytes())


for make in (checkpoints, indices, configs, tokenizers, pictures, shards, plans):
    make()
print(sum(1 for p in CORPUS.rglob("*") if p.is_file()), "seeds,", sum(p.stat().st_size for p in CORPUS.rglob("*") if p.is_file()) // 1000, "kB")
