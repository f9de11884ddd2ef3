"""Makes Kandinsky 2.2 as it is published, with random weights from diffusers' own classes.

    python kandinsky_folders.py --size micro --out DIR
    python kandinsky_folders.py --size micro --control inpaint --out DIR
    python kandinsky_folders.py --size full --out DIR        all 4.9 B parameters

DIR gets two folders, `decoder` and `prior`. The configurations have the fields of the published
files. Networks are written one after the other: no more than one is ever in memory.
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
    DDPMScheduler,
    KandinskyV22ControlnetPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from transformers import (  # noqa: E402
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from karlo_folders import DTYPES, randomise, write_feature_extractor, write_tokenizer  # noqa: E402
from karlo_sizes import scheduler, tower  # noqa: E402


def size(*, width, tokens, vocabulary, merges, text, image, prior, context, unet, movq, unet_in=4):
    """The arguments of every component. `width` is that of text tower and embedding at once."""
    vocabulary = vocabulary or 512 + merges + 2
    below = len(unet["block_out_channels"]) - 1
    levels = len(movq["block_out_channels"]) - 1
    return {
        "tokenizer": {"merges": merges, "vocabulary": vocabulary, "tokens": tokens},
        "text_encoder": {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "max_position_embeddings": tokens,
            "projection_dim": width,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
            **text,
            **(
                {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": 0}
                if text.get("eos_token_id") == "real"
                else {}
            ),
        },
        "image_encoder": {"projection_dim": width, **image},
        "image_processor": image["image_size"],
        "prior": {
            "embedding_dim": width,
            "num_embeddings": tokens,
            "additional_embeddings": 4,
            **prior,
        },
        "prior_scheduler": scheduler("sample", "fixed_small_log", 10.0),
        "unet": {
            "in_channels": unet_in,
            "out_channels": 8,
            "addition_embed_type": "image",
            "encoder_hid_dim": width,
            "encoder_hid_dim_type": "image_proj",
            "cross_attention_dim": context,
            "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * below,
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": ["SimpleCrossAttnUpBlock2D"] * below + ["ResnetUpsampleBlock2D"],
            "resnet_time_scale_shift": "scale_shift",
            **unet,
        },
        "movq": {
            "latent_channels": 4,
            "vq_embed_dim": 4,
            "norm_type": "spatial",
            "down_block_types": ["DownEncoderBlock2D"] * levels + ["AttnDownEncoderBlock2D"],
            "up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * levels,
            **movq,
        },
        "scheduler": {
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "linear",
            "clip_sample": False,
            "prediction_type": "epsilon",
            "steps_offset": 1,
            "variance_type": "fixed_small",
        },
    }


SIZES = {
    # What lies in the repository. The norms of MoVQ's decoder have 32 groups, so it is the largest.
    "micro": size(
        width=16,
        tokens=10,
        vocabulary=None,
        merges=40,
        text=tower(16, 2, 2, "gelu"),
        image=tower(16, 2, 2, "gelu", hidden_size=16, image_size=24, patch_size=8),
        prior={"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2},
        context=6,
        unet={
            "sample_size": 8,
            "block_out_channels": [4, 8],
            "layers_per_block": 1,
            "attention_head_dim": 4,
            "norm_num_groups": 2,
        },
        movq={"block_out_channels": [32, 32], "layers_per_block": 1, "num_vq_embeddings": 16},
    ),
    # Two levels more, widths that differ, and a head whose width is no power of two.
    "tiny": size(
        width=24,
        tokens=24,
        vocabulary=None,
        merges=80,
        text=tower(24, 2, 3, "gelu"),
        image=tower(26, 2, 2, "gelu", hidden_size=26, image_size=32, patch_size=8),
        prior={"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2},
        context=12,
        unet={
            "sample_size": 16,
            "block_out_channels": [8, 12, 16],
            "layers_per_block": 2,
            "attention_head_dim": 4,
            "norm_num_groups": 4,
        },
        movq={"block_out_channels": [32, 32, 64], "layers_per_block": 2, "num_vq_embeddings": 40},
    ),
    # Differs from the published one wherever a configuration can say so.
    "odd": size(
        width=20,
        tokens=21,
        vocabulary=None,
        merges=77,
        text=tower(20, 3, 5, "quick_gelu", layer_norm_eps=1e-6, eos_token_id="real"),
        image=tower(
            18, 3, 3, "quick_gelu", hidden_size=18, image_size=30, patch_size=6, layer_norm_eps=1e-6
        ),
        prior={"num_attention_heads": 3, "attention_head_dim": 6, "num_layers": 3},
        context=18,
        unet={
            "sample_size": 12,
            "block_out_channels": [12, 18],
            "layers_per_block": 2,
            "attention_head_dim": 6,
            "norm_num_groups": 3,
            "norm_eps": 1e-6,
            "resnet_time_scale_shift": "default",
        },
        movq={"block_out_channels": [64, 32, 96], "layers_per_block": 3, "num_vq_embeddings": 7},
    ),
    # Large enough for every kernel.
    "small": size(
        width=64,
        tokens=32,
        vocabulary=None,
        merges=120,
        text=tower(64, 3, 4, "gelu"),
        image=tower(96, 3, 4, "gelu", hidden_size=96, image_size=64, patch_size=8),
        prior={"num_attention_heads": 4, "attention_head_dim": 32, "num_layers": 3},
        context=48,
        unet={
            "sample_size": 32,
            "block_out_channels": [32, 64, 96],
            "layers_per_block": 2,
            "attention_head_dim": 32,
            "norm_num_groups": 8,
        },
        movq={"block_out_channels": [32, 64, 128], "layers_per_block": 2, "num_vq_embeddings": 100},
    ),
    # The published one.
    "full": size(
        width=1280,
        tokens=77,
        vocabulary=49408,
        merges=200,
        text=tower(1280, 32, 20, "gelu"),
        image={
            **tower(1664, 48, 16, "gelu", hidden_size=1664, image_size=224, patch_size=14),
            "intermediate_size": 8192,
        },
        prior={"num_attention_heads": 32, "attention_head_dim": 64, "num_layers": 20},
        context=768,
        unet={
            "sample_size": 64,
            "block_out_channels": [384, 768, 1152, 1536],
            "layers_per_block": 3,
            "attention_head_dim": 64,
            "norm_num_groups": 32,
        },
        movq={
            "block_out_channels": [128, 256, 256, 512],
            "layers_per_block": 2,
            "num_vq_embeddings": 16384,
        },
    ),
}

#: What the decoder's U-Net is told of every pixel: its pipeline, and the fields that differ.
CONTROLS = {
    None: (KandinskyV22Pipeline, {}),
    "inpaint": (KandinskyV22InpaintPipeline, {"in_channels": 9}),
    "hint": (KandinskyV22ControlnetPipeline, {"in_channels": 8, "addition_embed_type": "image_hint"}),
}

#: The networks of each folder.
NETWORKS = {"prior": ("text_encoder", "image_encoder", "prior"), "decoder": ("unet", "movq")}


def network(name, options):
    """The network of a component, without memory for its weights."""
    classes = {
        "text_encoder": lambda **o: CLIPTextModelWithProjection(CLIPTextConfig(**o)),
        "image_encoder": lambda **o: CLIPVisionModelWithProjection(CLIPVisionConfig(**o)),
        "prior": PriorTransformer,
        "unet": UNet2DConditionModel,
        "movq": VQModel,
    }
    with torch.device("meta"):
        return classes[name](**options[name])


def empty(part):
    """Removes a part's folder, if it is one."""
    if part.exists():
        known = (part / "scheduler").is_dir()
        assert known, f"{part} holds something else"
        shutil.rmtree(part)


def write_network(path, module, seed, dtype, shard_bytes, report):
    """Gives a network its weights, and writes it."""
    module = randomise(module, path.name, seed, DTYPES[dtype])
    module.save_pretrained(path, max_shard_size=shard_bytes)
    report(f"{sum(p.numel() for p in module.parameters()):>13,}  {path.name}")
    del module
    gc.collect()


def write_prior(prior, options, pipeline, write):
    """Writes the prior's folder: `write` is given the path and the network of each part."""
    empty(prior)
    for which in NETWORKS["prior"]:
        write(prior / which, network(which, options))
    UnCLIPScheduler(**options["prior_scheduler"]).save_pretrained(prior / "scheduler")
    write_tokenizer(prior / "tokenizer", **options["tokenizer"])
    write_feature_extractor(prior / "image_processor", options["image_processor"])
    parts = {name: network(name, options) for name in NETWORKS["prior"]}
    pipeline(
        **parts,
        tokenizer=CLIPTokenizer.from_pretrained(prior / "tokenizer"),
        scheduler=UnCLIPScheduler.from_pretrained(prior / "scheduler"),
        image_processor=CLIPImageProcessor.from_pretrained(prior / "image_processor"),
    ).save_config(prior)
    index = prior / "model_index.json"
    entries = json.loads(index.read_text())
    entries["image_processor"] = ["transformers", "CLIPImageProcessor"]
    write_json(index, entries)


def write_folder(folder, size, seed=0, dtype="f32", shard_bytes=1 << 40, report=lambda line: None, control=None):
    """Writes both folders; those that exist are replaced."""
    pipeline, fields = CONTROLS[control]
    options, folder = {**SIZES[size], "unet": {**SIZES[size]["unet"], **fields}}, Path(folder)

    def write(path, module):
        write_network(path, module, seed, dtype, shard_bytes, report)

    write_prior(folder / "prior", options, KandinskyV22PriorPipeline, write)
    decoder = folder / "decoder"
    empty(decoder)
    for which in NETWORKS["decoder"]:
        write(decoder / which, network(which, options))
    DDPMScheduler(**options["scheduler"]).save_pretrained(decoder / "scheduler")
    parts = {name: network(name, options) for name in NETWORKS["decoder"]}
    scheduler = DDPMScheduler.from_pretrained(decoder / "scheduler")
    pipeline(**parts, scheduler=scheduler).save_config(decoder)


def main(description, sizes, controls, write_folder):
    """The program that writes both folders of a version."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=sizes, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the folder that gets both")
    parser.add_argument("--control", choices=[name for name in controls if name], help="of the decoder's U-Net")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="type of the weight files")
    arguments = parser.parse_args()
    quiet()
    write_folder(
        arguments.out, arguments.size, arguments.seed, arguments.dtype, report=print, control=arguments.control
    )


if __name__ == "__main__":
    main(__doc__.splitlines()[0], SIZES, CONTROLS, write_folder)
