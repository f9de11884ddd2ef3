"""Makes Stable unCLIP 2.1 as it is published, with random weights from diffusers' own classes.

    python stable_folders.py --size micro --out DIR
    python stable_folders.py --size full-l --out DIR       as with CLIP ViT-L, with Karlo's prior
    python stable_folders.py --size full-h --out DIR       as with CLIP ViT-H, for pictures alone

DIR is that of a `StableUnCLIPPipeline` (of captions), with the parts of `StableUnCLIPImg2ImgPipeline` (of
pictures) beside it; `--pictures` leaves the prior out and writes the index of the latter. Networks are
written one after the other: no more than one is ever in memory.
"""

import argparse
import gc
import json
import shutil
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet, write_json  # noqa: E402  (first: it sets the environment)

import torch  # noqa: E402
from diffusers import (  # noqa: E402
    AutoencoderKL,
    DDPMScheduler,
    PNDMScheduler,
    PriorTransformer,
    StableUnCLIPImg2ImgPipeline,
    StableUnCLIPPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (  # noqa: E402
    StableUnCLIPImageNormalizer,
)
from transformers import (  # noqa: E402
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from karlo_folders import DTYPES, randomise, write_feature_extractor, write_tokenizer  # noqa: E402
from karlo_sizes import scheduler, tower  # noqa: E402


def size(*, width, tokens, vocabulary, merges, text, clip_text, image, prior, unet, heads, vae, normalized=True):
    """The arguments of every component. `width` is that of CLIP's embeddings."""
    vocabulary = vocabulary or 512 + merges + 2
    words = {"merges": merges, "vocabulary": vocabulary, "tokens": tokens}
    marks = {
        "vocab_size": vocabulary,
        "max_position_embeddings": tokens,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    levels = len(unet["block_out_channels"])
    return {
        "tokenizer": words,
        "prior_tokenizer": words,
        # as published, the width of a projection that there is not
        "text_encoder": {**marks, "projection_dim": 512, **text},
        "prior_text_encoder": {**marks, "projection_dim": width, "hidden_size": width, **clip_text},
        "image_encoder": {"projection_dim": width, **image},
        "feature_extractor": image["image_size"],
        "prior": {"embedding_dim": width, "num_embeddings": tokens, "additional_embeddings": 4, **prior},
        "prior_scheduler": scheduler("sample", "fixed_small_log", 5.0),
        "image_normalizer": {"embedding_dim": width},
        "normalized": normalized,
        "unet": {
            "in_channels": 4,
            "out_channels": 4,
            "attention_head_dim": heads,
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": 2 * width,
            "cross_attention_dim": text["hidden_size"],
            "down_block_types": ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1),
            "use_linear_projection": True,
            **unet,
        },
        "vae": {
            "latent_channels": 4,
            "down_block_types": ["DownEncoderBlock2D"] * len(vae["block_out_channels"]),
            "up_block_types": ["UpDecoderBlock2D"] * len(vae["block_out_channels"]),
            **vae,
        },
    }


PRIOR = {"num_attention_heads": 32, "attention_head_dim": 64, "num_layers": 20}

#: The parts of the published models that are the same in both.
PUBLISHED = {
    "tokens": 77,
    "vocabulary": 49408,
    "merges": 200,
    "text": tower(1024, 23, 16, "gelu", hidden_size=1024),
    "unet": {"sample_size": 96, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2},
    "heads": [5, 10, 20, 20],
    "vae": {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 768},
}

SIZES = {
    # What lies in the repository.
    "micro": size(
        width=12,
        tokens=10,
        vocabulary=None,
        merges=40,
        text=tower(16, 2, 2, "gelu", hidden_size=16),
        clip_text=tower(12, 2, 2),
        image=tower(16, 2, 2, hidden_size=16, image_size=24, patch_size=8),
        prior={"num_attention_heads": 2, "attention_head_dim": 6, "num_layers": 2},
        unet={"sample_size": 8, "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4},
        heads=[2, 4],
        vae={"block_out_channels": [8, 12], "layers_per_block": 1, "norm_num_groups": 4},
    ),
    # Two levels more, and widths that differ.
    "tiny": size(
        width=20,
        tokens=24,
        vocabulary=None,
        merges=80,
        text=tower(24, 2, 3, "gelu", hidden_size=24),
        clip_text=tower(20, 2, 2),
        image=tower(26, 2, 2, hidden_size=26, image_size=32, patch_size=8),
        prior={"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2},
        unet={"sample_size": 16, "block_out_channels": [8, 16, 24], "layers_per_block": 2, "norm_num_groups": 4},
        heads=[1, 2, 3],
        vae={"block_out_channels": [8, 16, 24], "layers_per_block": 2, "norm_num_groups": 4},
    ),
    # Differs from the published ones wherever a configuration can say so.
    "odd": size(
        width=18,
        tokens=21,
        vocabulary=None,
        merges=77,
        text=tower(20, 3, 5, "quick_gelu", hidden_size=20, layer_norm_eps=1e-6),
        clip_text=tower(18, 3, 3, "gelu"),
        image=tower(18, 3, 3, "gelu", hidden_size=18, image_size=30, patch_size=6, layer_norm_eps=1e-6),
        prior={"num_attention_heads": 3, "attention_head_dim": 6, "num_layers": 3},
        unet={
            "sample_size": 12,
            "block_out_channels": [12, 12],
            "layers_per_block": 3,
            "norm_num_groups": 3,
            "norm_eps": 1e-6,
        },
        heads=2,
        vae={"block_out_channels": [12, 6, 9], "layers_per_block": 1, "norm_num_groups": 3, "scaling_factor": 0.3},
        normalized=False,
    ),
    # Large enough for every kernel.
    "small": size(
        width=64,
        tokens=32,
        vocabulary=None,
        merges=120,
        text=tower(96, 3, 4, "gelu", hidden_size=96),
        clip_text=tower(64, 3, 4),
        image=tower(96, 3, 4, hidden_size=96, image_size=64, patch_size=8),
        prior={"num_attention_heads": 4, "attention_head_dim": 32, "num_layers": 3},
        unet={"sample_size": 32, "block_out_channels": [32, 64, 96], "layers_per_block": 2, "norm_num_groups": 8},
        heads=[1, 2, 3],
        vae={"block_out_channels": [16, 32, 64], "layers_per_block": 2, "norm_num_groups": 8},
    ),
    # The published ones.
    "full-l": size(
        width=768,
        clip_text=tower(768, 12, 12),
        image=tower(1024, 24, 16, hidden_size=1024, image_size=224, patch_size=14),
        prior=PRIOR,
        **PUBLISHED,
    ),
    "full-h": size(
        width=1024,
        clip_text=tower(1024, 24, 16, "gelu"),
        image=tower(1280, 32, 16, "gelu", hidden_size=1280, image_size=224, patch_size=14),
        prior=PRIOR,
        normalized=False,
        **PUBLISHED,
    ),
}

#: Networks, those of captions and of pictures among them.
NETWORKS = ("text_encoder", "image_normalizer", "unet", "vae")
OF_CAPTIONS = ("prior_text_encoder", "prior")
OF_PICTURES = ("image_encoder",)


def network(name, options):
    """The network of a component, without memory for its weights."""
    classes = {
        "text_encoder": lambda **o: CLIPTextModel(CLIPTextConfig(**o)),
        "prior_text_encoder": lambda **o: CLIPTextModelWithProjection(CLIPTextConfig(**o)),
        "image_encoder": lambda **o: CLIPVisionModelWithProjection(CLIPVisionConfig(**o)),
        "image_normalizer": StableUnCLIPImageNormalizer,
        "prior": PriorTransformer,
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
    }
    with torch.device("meta"):
        return classes[name](**options[name])


def statistics(module, prior, normalized):
    """Gives a normalizer the statistics of the prior's space, or none."""
    module.mean.data = prior.clip_mean.data.clone() if normalized else torch.zeros_like(module.mean)
    module.std.data = prior.clip_std.data.clone() if normalized else torch.ones_like(module.std)


def write_networks(folder, options, names, seed, dtype, shard_bytes, report):
    """Writes networks, one after the other."""
    for name in names:
        module = randomise(network(name, options), name, seed, DTYPES[dtype])
        if name == "image_normalizer":
            prior = randomise(network("prior", {"prior": {**options["prior"], "num_layers": 1}}), "prior", seed, torch.float32)
            statistics(module, prior, options["normalized"])
            module.to(DTYPES[dtype])
        module.save_pretrained(folder / name, max_shard_size=shard_bytes)
        report(f"{sum(p.numel() for p in module.parameters()):>13,}  {name}")
        del module
        gc.collect()


def write_index(folder, options, pictures):
    """`model_index.json`, by the pipeline itself, from networks without weights."""
    own = OF_PICTURES if pictures else OF_CAPTIONS
    parts = {name: network(name, options) for name in NETWORKS + own}
    parts["scheduler"] = PNDMScheduler.from_pretrained(folder / "scheduler")
    parts["image_noising_scheduler"] = DDPMScheduler.from_pretrained(folder / "image_noising_scheduler")
    parts["tokenizer"] = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    if pictures:
        parts["feature_extractor"] = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")
    else:
        parts["prior_tokenizer"] = CLIPTokenizer.from_pretrained(folder / "prior_tokenizer")
        parts["prior_scheduler"] = DDPMScheduler.from_pretrained(folder / "prior_scheduler")
    pipeline = StableUnCLIPImg2ImgPipeline if pictures else StableUnCLIPPipeline
    pipeline(**parts).save_config(folder)
    index = folder / "model_index.json"
    entries = json.loads(index.read_text())
    if pictures:
        entries["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    write_json(index, entries)


def write_folder(folder, size, seed=0, dtype="f32", shard_bytes=1 << 40, report=lambda line: None, pictures=False):
    """Writes a folder; one that exists is replaced."""
    options, folder = SIZES[size], Path(folder)
    if folder.exists():
        known = (folder / "image_noising_scheduler").is_dir() or not any(folder.iterdir())
        assert known, f"{folder} holds something else"
        shutil.rmtree(folder)
    write_networks(
        folder,
        options,
        NETWORKS + OF_PICTURES + (() if pictures else OF_CAPTIONS),
        seed,
        dtype,
        shard_bytes,
        report,
    )
    PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(folder / "image_noising_scheduler")
    write_tokenizer(folder / "tokenizer", **options["tokenizer"])
    # as published: the one file says another padding than the other, which is the one that counts
    path = folder / "tokenizer" / "tokenizer_config.json"
    write_json(path, {**json.loads(path.read_text()), "pad_token": "<|endoftext|>"})
    write_feature_extractor(folder / "feature_extractor", options["feature_extractor"])
    if not pictures:
        # of the class that diffusers' documentation has: with Karlo's own, the pipeline would take every
        # step for one of a thousand. Made as there, it would have a linear schedule.
        DDPMScheduler(beta_schedule="squaredcos_cap_v2", **options["prior_scheduler"]).save_pretrained(
            folder / "prior_scheduler"
        )
        write_tokenizer(folder / "prior_tokenizer", **options["prior_tokenizer"])
    write_index(folder, options, pictures)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--pictures", action="store_true", help="without a prior")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="type of the weight files")
    arguments = parser.parse_args()
    quiet()
    write_folder(
        arguments.out,
        arguments.size,
        arguments.seed,
        arguments.dtype,
        report=print,
        pictures=arguments.pictures,
    )


if __name__ == "__main__":
    main()
