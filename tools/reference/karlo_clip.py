"""Writes a CLIP of transformers in its three layouts: OpenAI, open_clip and Hugging Face.

    python karlo_clip.py --model DIR --variation DIR2 --out DIR3    DIR3/openai, DIR3/open_clip, ...

The text tower is that of a Karlo folder, the image tower that of an image-variation folder.
"""

import argparse
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import torch  # noqa: E402

from karlo_files import component, rename, write_json, write_weights  # noqa: E402

CLIP_FILE = "ViT-L-14.safetensors"

#: The natural logarithm of CLIP's largest temperature. The folders have no place for it.
LOGIT_SCALE = 4.6052

CLIP_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}

CLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
}


def clip_openai(text, image=None):
    """CLIP in OpenAI's layout, which open_clip has too, from the state of its towers."""
    result = {"logit_scale": torch.tensor(LOGIT_SCALE, dtype=next(iter(text.values())).dtype)}
    state = {**text, **(image or {})}
    for key, value in state.items():
        if key.endswith("position_ids"):
            continue
        if ".encoder.layers." not in key:
            value = value.T.contiguous() if key.endswith("projection.weight") else value
            result[CLIP[key]] = value
            continue
        tower, _, _, index, inner = key.split(".", 4)
        block = f"{'visual.' if tower == 'vision_model' else ''}transformer.resblocks.{index}."
        module, _, leaf = inner.rpartition(".")
        if module == "self_attn.q_proj":
            parts = [state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            result[f"{block}attn.in_proj_{leaf}"] = torch.cat(parts)
        elif module not in ("self_attn.k_proj", "self_attn.v_proj"):
            result[block + rename(inner, CLIP_BLOCK)] = value
    return result


def clip_open_clip(text, image=None, custom_text=False):
    """CLIP in open_clip's layout; its `CustomTextCLIP` has the text tower under `text.`."""
    result = clip_openai(text, image)
    if custom_text:
        outside = ("visual.", "logit_scale")
        result = {key if key.startswith(outside) else f"text.{key}": value for key, value in result.items()}
    return result


def clip_hugging_face(text, image=None):
    """CLIP in the layout of transformers' `CLIPModel`."""
    scale = torch.tensor(LOGIT_SCALE, dtype=next(iter(text.values())).dtype)
    return {"logit_scale": scale, **text, **(image or {})}


def open_clip_config(text, image):
    """The configuration of open_clip for two towers of transformers."""
    result = {
        "embed_dim": text["projection_dim"],
        "quick_gelu": text["hidden_act"] == "quick_gelu",
        "vision_cfg": {
            "image_size": image["image_size"],
            "patch_size": image["patch_size"],
            "layers": image["num_hidden_layers"],
            "width": image["hidden_size"],
            "head_width": image["hidden_size"] // image["num_attention_heads"],
            "mlp_ratio": image["intermediate_size"] / image["hidden_size"],
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "layers": text["num_hidden_layers"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
        },
    }
    return {"model_cfg": result}


def write_clip(model, images, out):
    """CLIP in its three layouts, each in a folder of its own, and open_clip's second variant."""
    text_config, text = component(model, "text_encoder")
    image_config, image = component(images, "image_encoder")
    write_weights(out / "openai" / CLIP_FILE, clip_openai(text, image))
    write_weights(out / "open_clip" / "open_clip_model.safetensors", clip_open_clip(text, image))
    write_json(out / "open_clip" / "open_clip_config.json", open_clip_config(text_config, image_config))
    write_weights(out / "open_clip_custom_text" / "open_clip_model.safetensors", clip_open_clip(text, image, True))
    write_json(out / "open_clip_custom_text" / "open_clip_config.json", open_clip_config(text_config, image_config))
    write_weights(out / "hugging_face" / "model.safetensors", clip_hugging_face(text, image))
    configs = {"text_config": text_config, "vision_config": image_config}
    joint = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": text_config["projection_dim"]}
    write_json(out / "hugging_face" / "config.json", {**joint, "logit_scale_init_value": LOGIT_SCALE, **configs})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder with the text tower")
    parser.add_argument("--variation", type=Path, help="folder with the image tower (default: the same)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the layouts")
    arguments = parser.parse_args()
    write_clip(arguments.model, arguments.variation or arguments.model, arguments.out)


if __name__ == "__main__":
    main()
