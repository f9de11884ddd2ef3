"""Writes tests/fixtures/laion: very small models of LAION's kind without their weights, and the traces of runs on them.

    python laion_fixtures.py            writes the files
    python laion_fixtures.py --check    recomputes the traces, compares, writes nothing

The models whose names begin with `early` are written by runs of their own (`laion_reference.py` says how).

Weights and noise follow from their names (`hashed.py`): the tests make them again. The tokenizer is that of
tests/fixtures/karlo.
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

import karlo_files  # noqa: E402  (first: it sets the environment)

import torch  # noqa: E402
from laion_reference import EARLY, REFERENCE, SIZES, Models, run, shapes, write_folder  # noqa: E402

import folder_fixtures  # noqa: E402
import hashed  # noqa: E402
from karlo_fixtures import PROMPTS, pictures  # noqa: E402

TESTS = Path(__file__).resolve().parents[2] / "tests" / "fixtures"

#: The published kind, and one with everything else, of this release.
MODELS = ("early", "early-odd") if EARLY else ("micro", "micro-odd")


def compute(root):
    """The files beside the models: name, tensors, settings."""
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(folder, name)
            for file in ("vocab.json", "merges.txt"):
                own, committed = (Path(it) / file for it in (f"{folder}/tokenizer", TESTS / "karlo/tiny/tokenizer"))
                assert own.read_bytes() == committed.read_bytes(), f"{committed} is not the tokenizer of {name}"
            models = Models(folder, name)
        # early priors know no guidance
        cases = {"text": (PROMPTS, None, (1.0 if EARLY else 2.0, 1.7)), "plain": (PROMPTS[:1], None, (1.0, 1.0))}
        cases["variation"] = (PROMPTS[1:2], pictures()["wide"], (1.0, 3.0))
        for case, (prompts, picture, guidance) in cases.items():
            _, trace = run(models, prompts, picture=picture, guidance=guidance)
            yield f"{name}/{case}.trace", trace, {"guidance": guidance}
        yield f"{name}/calls", calls(models), {}


def calls(models):
    """One call of each network: what it gives for a condition, then for none, if it can be led away from that."""
    embed, read, *_ = models.embed_text(PROMPTS[:1])
    timesteps = torch.tensor([3])
    nulls = {"text_cond_drop_prob": 1.0, "image_cond_drop_prob": 1.0}
    net, width = models.prior.net, models.prior.image_embed_dim
    noised = hashed.noise("call.embedding", (1, width))
    text = {"text_embed": embed, "text_encodings": read}
    drops = ({},) if EARLY else ({}, nulls)
    outputs = {"prior": torch.cat([net(noised, timesteps, **text, **drop) for drop in drops])}
    decoder = models.decoders[0]
    side = decoder.image_sizes[0]
    small, image = hashed.noise("call.small", (1, 3, side, side)), REFERENCE.l2norm(noised)
    unet = decoder.unets[0]
    given = {"image_embed": image, "text_encodings": read if unet.cond_on_text_encodings else None}
    outputs["decoder"] = torch.cat([unet(small, timesteps, **given, **drop) for drop in ({}, nulls)])
    last = models.decoders[-1]
    above = last.image_sizes[1]
    low_res = REFERENCE.resize_image_to(small.clamp(-1, 1), above, nearest=True)
    large = hashed.noise("call.large", (1, 3, above, above))
    outputs["upsampler.0"] = last.unets[1](large, timesteps, image_embed=image, lowres_cond_img=low_res)
    return {f"{name}.output": output for name, output in outputs.items()}


def write_folders(root):
    """Configurations, and the shapes of all tensors."""
    for name in MODELS:
        shutil.rmtree(root / name, ignore_errors=True)
        karlo_files.write_json(root / name / "shapes.json", shapes(name), indent=None)
        for part, file in (("prior", "prior_config"), ("decoder", "decoder_config"), ("upsampler", "decoder_config")):
            if part in SIZES[name]:
                karlo_files.write_json(root / name / "model" / part / f"{file}.json", SIZES[name][part])


if __name__ == "__main__":
    folder_fixtures.main(__doc__.splitlines()[0], TESTS / "laion", write_folders, compute)
