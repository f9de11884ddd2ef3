"""Writes the weights of a diffusers folder in the original Karlo layout.

    python karlo_layouts.py --model DIR --out DIR2                      DIR2/prior-ckpt-....safetensors etc.
    python karlo_layouts.py --model DIR --variation DIR3 --out DIR2     with the image tower of DIR3

The original files are pickles; here they are safetensors with the same names and keys. The
original sizes are in source files, so those of the folder are put beside the weights, in
`source_configs.json`, and so is its tokenizer. Neither exists in the original.
"""

import argparse
import shutil
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import torch  # noqa: E402

from karlo_clip import CLIP_FILE, clip_openai  # noqa: E402
from karlo_files import component, rename, write_json, write_weights  # noqa: E402

PRIOR_FILE = "prior-ckpt-step=01000000-of-01000000.safetensors"
DECODER_FILE = "decoder-ckpt-step=01000000-of-01000000.safetensors"
SUPER_RES_FILE = "improved-sr-ckpt-step=1.2M.safetensors"
STATS_FILE = "ViT-L-14_stats.safetensors"

PRIOR = {
    "positional_embedding": "positional_embedding",
    "prd_embedding": "prd_emb",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "proj_in": "clip_img_proj",
    "embedding_proj": "text_emb_proj",
    "encoder_hidden_states_proj": "text_enc_proj",
    "norm_out": "final_ln",
    "proj_to_clip_embeddings": "out_proj",
}

PRIOR_BLOCK = {
    "norm1": "ln_1",
    "norm3": "ln_2",
    "attn1.to_out.0": "attn.c_proj",
    "ff.net.0.proj": "mlp.c_fc",
    "ff.net.2": "mlp.c_proj",
}

TEXT_PROJ = {
    "encoder_hidden_states_proj": "text_seq_proj.0",
    "text_encoder_hidden_states_norm": "text_seq_proj.1",
    "clip_extra_context_tokens_proj": "clip_tok_proj",
    "embedding_proj": "text_feat_proj",
    "clip_image_embeddings_project_to_time_embeddings": "clip_emb",
    "learned_classifier_free_guidance_embeddings": "cf_param",
}

UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}

def interleave(parts, heads):
    """Joins the rows of several projections head by head: those of head 0 of each, head 1, ..."""
    split = [part.reshape(heads, -1, *part.shape[1:]) for part in parts]
    return torch.cat(split, dim=1).flatten(0, 1)


def prefixed(prefix, state):
    """`state` with `prefix` before every key."""
    return {prefix + key: value for key, value in state.items()}


def prior(config, state):
    """The prior, and the statistics, which are a file of their own."""
    state = dict(state)
    stats = {"mean": state.pop("clip_mean")[0], "std": state.pop("clip_std")[0]}
    heads = config["num_attention_heads"]
    result = {}
    for key, value in state.items():
        if not key.startswith("transformer_blocks."):
            result[rename(key, PRIOR)] = value
            continue
        _, index, inner = key.split(".", 2)
        block = f"transformer.resblocks.{index}."
        module, _, leaf = inner.rpartition(".")
        if module == "attn1.to_q":
            parts = [state[key.replace("to_q", part)] for part in ("to_q", "to_k", "to_v")]
            result[f"{block}attn.c_qkv.{leaf}"] = interleave(parts, heads)
        elif module not in ("attn1.to_k", "attn1.to_v"):
            result[block + rename(inner, PRIOR_BLOCK)] = value
    return result, stats


def text_proj(state):
    """The text projection, which the original keeps in the decoder."""
    return {rename(key, TEXT_PROJ): value for key, value in state.items()}


def place(path, levels, layers):
    """Where the original U-Net has a residual or attention block, and the rest of the key.

    Every level has `layers` + 1 slots: going down, one for each residual block and one for the
    downsampler; going up, one for each of the `layers` + 1 residual blocks, the last of which
    also holds the upsampler, after the attention if there is one.
    """
    side, *rest = path.split(".")
    if side == "mid_block":
        kind, index, *inner = rest
        last = 2 if "attention" in levels["mid"] else 1
        return f"middle_block.{1 if kind == 'attentions' else last * int(index)}", kind, ".".join(inner)
    level, kind, index, *inner = rest
    start = int(level) * (layers + 1)
    attention = "Attn" in levels[side][int(level)]
    if kind in ("downsamplers", "upsamplers"):
        slot = start + layers + 1 if kind == "downsamplers" else start + layers
        element = 0 if kind == "downsamplers" else 1 + attention
        kind = "resnets"
    else:
        slot = start + int(index) + (1 if side == "down_blocks" else 0)
        element = 0 if kind == "resnets" else 1
    blocks = "input_blocks" if side == "down_blocks" else "output_blocks"
    return f"{blocks}.{slot}.{element}", kind, ".".join(inner)


def unet(config, state):
    """The U-Net of the decoder or of one super-resolution network."""
    levels = {
        "down_blocks": config["down_block_types"],
        "up_blocks": config["up_block_types"],
        "mid": "attention" if "mid_block.attentions.0.to_q.weight" in state else "",
    }
    result = {}
    for key, value in state.items():
        if not key.startswith(("down_blocks.", "mid_block.", "up_blocks.")):
            result[rename(key, UNET)] = value
            continue
        target, kind, inner = place(key, levels, config["layers_per_block"])
        if kind == "resnets":
            result[f"{target}.{rename(inner, RESNET)}"] = value
            continue
        module, _, leaf = inner.rpartition(".")
        groups = {"to_q": ("qkv", ("to_q", "to_k", "to_v")), "add_k_proj": ("encoder_kv", ("add_k_proj", "add_v_proj"))}
        if module in groups:
            name, parts = groups[module]
            heads = len(value) // config["attention_head_dim"]
            value = interleave([state[key.replace(module, part)] for part in parts], heads)
        elif module in ("group_norm", "to_out.0"):
            name = {"group_norm": "norm", "to_out.0": "proj_out"}[module]
        else:
            continue  # taken with its group
        is_matrix = value.dim() == 2  # the original has them as convolutions of width 1
        result[f"{target}.{name}.{leaf}"] = value.unsqueeze(-1) if is_matrix else value
    return result


def write_original(model, images, out):
    """All files of the original layout."""
    configs = {}
    out.mkdir(parents=True, exist_ok=True)
    if (model / "prior").is_dir():
        configs["prior"], state = component(model, "prior")
        converted, stats = prior(configs["prior"], state)
        write_weights(out / PRIOR_FILE, prefixed("model.", converted))
        write_weights(out / STATS_FILE, stats)
    configs["text_proj"], state = component(model, "text_proj")
    converted = text_proj(state)
    configs["decoder"], state = component(model, "decoder")
    converted.update(unet(configs["decoder"], state))
    write_weights(out / DECODER_FILE, prefixed("model.", converted))
    configs["super_res_first"], state = component(model, "super_res_first")
    converted = prefixed("model_first_steps.", unet(configs["super_res_first"], state))
    configs["super_res_last"], state = component(model, "super_res_last")
    converted.update(prefixed("model_last_step.", unet(configs["super_res_last"], state)))
    write_weights(out / SUPER_RES_FILE, converted)
    configs["text_encoder"], text = component(model, "text_encoder")
    configs["image_encoder"], image = component(images, "image_encoder") if images else (None, None)
    write_weights(out / CLIP_FILE, clip_openai(text, image))
    write_json(out / "source_configs.json", {name: config for name, config in configs.items() if config})
    shutil.copytree(model / "tokenizer", out / "tokenizer", dirs_exist_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder in the diffusers layout")
    parser.add_argument("--variation", type=Path, help="image-variation folder to take the image tower from")
    parser.add_argument("--out", type=Path, required=True, help="folder for the original layout")
    arguments = parser.parse_args()
    has_images = (arguments.model / "image_encoder").is_dir()
    write_original(arguments.model, arguments.variation or (arguments.model if has_images else None), arguments.out)


if __name__ == "__main__":
    main()
