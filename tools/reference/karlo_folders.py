"""Makes folders in the published layout of Karlo, with random weights from diffusers' own classes.

    python karlo_folders.py --size tiny --out DIR
    python karlo_folders.py --size odd --out DIR --dtype f16
    python karlo_folders.py --size tiny --out DIR --variation     the image-variation folder
    python karlo_folders.py --size small --out DIR --shards 3     sharded weight files
    python karlo_folders.py --size full --out DIR                 all 3.3 B parameters, 13.7 GB

The configurations have the fields of the published files; those that later versions of the
libraries added are left to their defaults. `--fields current` writes them all.

The components are written one after the other: no more than one is ever in memory. A component
that both kinds of folder have gets the same weights in both, as it has in the published ones.
"""

import argparse
import gc
import json
import math
import shutil
import sys
import zlib
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import quiet, write_json  # noqa: E402  (first: it sets the environment)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel  # noqa: E402
from diffusers import UnCLIPImageVariationPipeline, UnCLIPPipeline  # noqa: E402
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel  # noqa: E402
from huggingface_hub import split_torch_state_dict_into_shards  # noqa: E402
from torch import nn  # noqa: E402
from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer  # noqa: E402
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection  # noqa: E402

import bpe  # noqa: E402
from karlo_sizes import IMAGE_MEAN, IMAGE_STD, SIZES  # noqa: E402

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

#: The networks of each kind of folder, in the order in which they are written.
NETWORKS = {
    False: ("text_encoder", "prior", "text_proj", "decoder", "super_res_first", "super_res_last"),
    True: ("text_encoder", "image_encoder", "text_proj", "decoder", "super_res_first", "super_res_last"),
}

#: Fields of the published configurations, by class. What is not listed came later.
PUBLISHED_FIELDS = {
    "PriorTransformer": "additional_embeddings attention_head_dim dropout embedding_dim num_attention_heads "
    "num_embeddings num_layers",
    "UnCLIPTextProjModel": "clip_embeddings_dim clip_extra_context_tokens cross_attention_dim time_embed_dim",
    "UNet2DConditionModel": "act_fn attention_head_dim block_out_channels center_input_sample class_embed_type "
    "cross_attention_dim down_block_types downsample_padding dual_cross_attention flip_sin_to_cos freq_shift "
    "in_channels layers_per_block mid_block_scale_factor mid_block_type norm_eps norm_num_groups "
    "num_class_embeds only_cross_attention out_channels resnet_time_scale_shift sample_size up_block_types "
    "upcast_attention use_linear_projection",
    "UNet2DModel": "act_fn add_attention attention_head_dim block_out_channels center_input_sample "
    "down_block_types downsample_padding flip_sin_to_cos freq_shift in_channels layers_per_block "
    "mid_block_scale_factor norm_eps norm_num_groups out_channels resnet_time_scale_shift sample_size "
    "time_embedding_type up_block_types",
    "UnCLIPScheduler": "clip_sample clip_sample_range num_train_timesteps prediction_type variance_type",
}


def network(name, options):
    """The network of a component, without memory for its weights."""
    with torch.device("meta"):
        if name == "text_encoder":
            return CLIPTextModelWithProjection(CLIPTextConfig(**options[name]))
        if name == "image_encoder":
            return CLIPVisionModelWithProjection(CLIPVisionConfig(**options[name]))
        if name == "prior":
            return PriorTransformer(**options[name])
        if name == "text_proj":
            return UnCLIPTextProjModel(**options[name])
        if name == "decoder":
            return UNet2DConditionModel(**options[name])
        return UNet2DModel(**options["super_res"])


def randomise(module, name, seed, dtype):
    """Gives `module` memory in `dtype` and a random value in every parameter.

    Nothing degenerates and every layer keeps a scale of about one: norm gains 1 + 0.1 n, biases
    0.1 n, linear and convolution weights n / sqrt(fan in), so none of those that a fresh network
    sets to zero stays there. `clip_mean` is 0.2 n and `clip_std` 0.5 + 0.05 n; tables and free
    vectors are 0.5 n. The generator is seeded by the name of the parameter: it does not matter
    what else the folder holds.
    """
    module.to(dtype).to_empty(device="cpu")
    for key, parameter in module.named_parameters():
        rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(f"{name}.{key}".encode())]))
        value = rng.standard_normal(tuple(parameter.shape), dtype=np.float32)
        owner_name, _, leaf = key.rpartition(".")
        owner = module.get_submodule(owner_name)
        scale, center = 0.5, 0.0
        if isinstance(owner, (nn.LayerNorm, nn.GroupNorm)) and leaf == "weight":
            scale, center = 0.1, 1.0
        elif leaf == "bias":
            scale = 0.1
        elif isinstance(owner, (nn.Linear, nn.Conv2d)):
            scale = 1 / math.sqrt(parameter[0].numel())
        elif leaf == "clip_mean":
            scale = 0.2
        elif leaf == "clip_std":
            scale, center = 0.05, 0.5
        value *= scale
        value += center
        parameter.data.copy_(torch.from_numpy(value))
    return module.eval()


def publish_config(path):
    """Rewrites a configuration as the library of the published folder would have written it."""
    config = json.loads(path.read_text())
    if "_class_name" in config:
        kept = PUBLISHED_FIELDS.get(config["_class_name"], " ".join(config)).split()
        config = {name: value for name, value in config.items() if name in kept or name == "_class_name"}
        config["_diffusers_version"] = "0.11.0.dev0"
    else:
        config["torch_dtype"] = config.pop("dtype")
        config.update(dropout=0.0, transformers_version="4.25.0.dev0")
        config["_name_or_path"] = "openai/clip-vit-large-patch14"
    write_json(path, dict(sorted(config.items())))


def shard_limit(module, shards):
    """The size limit, in bytes, that splits the weights of `module` into `shards` files."""
    state = module.state_dict()
    total = sum(value.numel() * value.element_size() for value in state.values())
    limit = math.ceil(total / shards)
    while len(split_torch_state_dict_into_shards(state, max_shard_size=limit).filename_to_tensors) > shards:
        limit = math.ceil(limit * 1.02)
    return limit


def write_tokenizer(folder, merges, vocabulary, tokens):
    """The tokenizer files as published: no `tokenizer.json`.

    The vocabulary has CLIP's order: bytes, bytes at the end of a word, merges, start, end. Up to
    `vocabulary` it is filled with entries that no text reaches.
    """
    _, learned = bpe.train()
    characters = list(bpe.byte_characters().values())
    symbols = characters + [symbol + "</w>" for symbol in characters]
    symbols += [left + right for left, right in learned[:merges]]
    symbols += [f"<|unused{index}|>" for index in range(vocabulary - 2 - len(symbols))]
    symbols += [bpe.START, bpe.END]
    assert len(symbols) == vocabulary and len(set(symbols)) == vocabulary

    def special(content):
        flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        return {"content": content, **flags}

    start, end = special(bpe.START), special(bpe.END)
    typed_start, typed_end = ({"__type": "AddedToken", **token} for token in (start, end))
    write_json(folder / "vocab.json", {symbol: index for index, symbol in enumerate(symbols)}, indent=None)
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in learned[:merges])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(
        folder / "special_tokens_map.json",
        {"bos_token": start, "eos_token": end, "pad_token": "!", "unk_token": end},
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": typed_start,
            "do_lower_case": True,
            "eos_token": typed_end,
            "errors": "replace",
            "model_max_length": tokens,
            "pad_token": "!",
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": typed_end,
        },
    )


def write_feature_extractor(folder, edge):
    """The image preprocessing as published: shortest edge, center crop, CLIP's mean and deviation."""
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": edge, "width": edge},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": IMAGE_MEAN,
            "image_processor_type": "CLIPImageProcessor",
            "image_std": IMAGE_STD,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": edge},
        },
    )


def write_model_index(folder, options, variation):
    """`model_index.json`, by the pipeline itself, from networks without weights."""
    parts = {name: network(name, options) for name in NETWORKS[variation]}
    schedulers = ("decoder_scheduler", "super_res_scheduler") + (() if variation else ("prior_scheduler",))
    parts.update({name: UnCLIPScheduler.from_pretrained(folder / name) for name in schedulers})
    parts["tokenizer"] = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    if variation:
        parts["feature_extractor"] = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")
    pipeline = (UnCLIPImageVariationPipeline if variation else UnCLIPPipeline)(**parts)
    pipeline.save_config(folder)
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    # As published: the library of the projection, and the public name of the image processor.
    index["text_proj"] = ["unclip", "UnCLIPTextProjModel"]
    if variation:
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    write_json(path, index)


def write_folder(
    folder, size, seed=0, dtype="f32", shards=1, variation=False, fields="published", report=lambda line: None
):
    """Writes a whole folder; one that exists is replaced."""
    options = SIZES[size]
    folder = Path(folder)
    if folder.exists():
        # A slip in the argument must not cost more than a Karlo folder.
        known = (folder / "decoder_scheduler").is_dir() or not any(folder.iterdir())
        assert known, f"{folder} holds something else"
        shutil.rmtree(folder)
    for name in ("decoder_scheduler", "super_res_scheduler") + (() if variation else ("prior_scheduler",)):
        UnCLIPScheduler(**options[name]).save_pretrained(folder / name)
    write_tokenizer(folder / "tokenizer", **options["tokenizer"])
    if variation:
        write_feature_extractor(folder / "feature_extractor", options["feature_extractor"])
    for name in NETWORKS[variation]:
        module = randomise(network(name, options), name, seed, DTYPES[dtype])
        limit = {"max_shard_size": shard_limit(module, shards)} if shards > 1 else {"max_shard_size": 1 << 40}
        module.save_pretrained(folder / name, **limit)
        count = sum(parameter.numel() for parameter in module.parameters())
        report(f"{count:>13,}  {name}")
        del module
        gc.collect()
    write_model_index(folder, options, variation)
    if fields == "published":
        for pattern in ("model_index.json", "*/config.json", "*/scheduler_config.json"):
            for path in folder.glob(pattern):
                publish_config(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="type of the weight files")
    parser.add_argument("--shards", type=int, default=1, help="weight files for each network")
    parser.add_argument("--variation", action="store_true", help="the image-variation folder")
    parser.add_argument("--fields", choices=("published", "current"), default="published", help="of the configs")
    arguments = parser.parse_args()
    quiet()
    write_folder(
        arguments.out,
        arguments.size,
        arguments.seed,
        arguments.dtype,
        arguments.shards,
        arguments.variation,
        arguments.fields,
        report=print,
    )


if __name__ == "__main__":
    main()
