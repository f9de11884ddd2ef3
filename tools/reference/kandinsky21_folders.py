"""Makes Kandinsky 2.1 as it is published, with random weights from diffusers' own classes.

    python kandinsky21_folders.py --size micro --out DIR
    python kandinsky21_folders.py --size micro --control inpaint --out DIR
    python kandinsky21_folders.py --size full --out DIR        all 3.3 B parameters

DIR gets two folders, `decoder` and `prior`, as from `kandinsky_folders.py`, which has 2.2.
"""

import copy
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from karlo_files import write_json  # noqa: E402  (first: it sets the environment)

import torch  # noqa: E402
from diffusers import (  # noqa: E402
    DDIMScheduler,
    KandinskyInpaintPipeline,
    KandinskyPipeline,
    KandinskyPriorPipeline,
)
from diffusers.pipelines.kandinsky import MultilingualCLIP  # noqa: E402
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig  # noqa: E402
from transformers import XLMRobertaTokenizer  # noqa: E402

import kandinsky_folders  # noqa: E402
from kandinsky_folders import empty, network, write_network, write_prior  # noqa: E402
from karlo_sizes import tower  # noqa: E402
from pieces import write_tokenizer  # noqa: E402

#: What 2.1's pipelines take of a caption.
TOKENS = 77

#: Widths and depths of the multilingual tower, and its tokenizer.
TOWERS = {
    "micro": ({"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}, {"pieces": 150}),
    "tiny": ({"hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2}, {"pieces": 110, "older": True}),
    "odd": (
        {"hidden_size": 21, "num_hidden_layers": 2, "num_attention_heads": 3, "layer_norm_eps": 1e-6},
        {"pieces": 150, "vocabulary": 200},
    ),
    "small": (
        {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4},
        {"pieces": 150, "rules": "nmt_nfkc"},
    ),
    "full": (
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "max_position_embeddings": 514,
        },
        {"pieces": 150, "vocabulary": 250002, "rules": "nmt_nfkc"},
    ),
}

#: What the decoder's U-Net is told of every pixel.
CONTROLS = {None: (KandinskyPipeline, {}), "inpaint": (KandinskyInpaintPipeline, {"in_channels": 9})}


def options_of(size, control):
    """The arguments of every component of a size."""
    options = copy.deepcopy(kandinsky_folders.SIZES[size])
    text, words = TOWERS[size]
    if size == "full":
        # CLIP ViT-L/14
        options["text_encoder"].update(tower(768, 12, 12, "quick_gelu"), hidden_size=768, projection_dim=768)
        options["image_encoder"] = {
            **tower(1024, 24, 16, "quick_gelu", hidden_size=1024, image_size=224, patch_size=14),
            "projection_dim": 768,
        }
        options["prior"]["embedding_dim"] = 768
    width = options["image_encoder"]["projection_dim"]
    options["unet"].update(
        # for which the class has one field
        cross_attention_dim=width,
        encoder_hid_dim=text["hidden_size"],
        encoder_hid_dim_type="text_image_proj",
        addition_embed_type="text_image",
        **CONTROLS[control][1],
    )
    options["mclip"] = {
        "intermediate_size": 2 * text["hidden_size"],
        "max_position_embeddings": TOKENS + 4,
        "hidden_act": "gelu",
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
        **text,
        "transformerDimensions": text["hidden_size"],
        "numDims": width,
        "transformerDimSize": text["hidden_size"],
        "imageDimSize": width,
    }
    options["words"] = words
    schedule = options["scheduler"]
    options["scheduler"] = {key: value for key, value in schedule.items() if key != "variance_type"}
    options["scheduler"]["set_alpha_to_one"] = False
    return options


def multilingual(options, vocabulary):
    """The text tower, without memory for its weights."""
    with torch.device("meta"):
        return MultilingualCLIP(MCLIPConfig(**options["mclip"], vocab_size=vocabulary))


def publish_config(path):
    """Leaves the fields of the published configuration, and those names."""
    config = json.loads(path.read_text())
    for name in ("transformerDimSize", "imageDimSize"):
        config.pop(name, None)
    config["torch_dtype"] = config.pop("dtype")
    write_json(path, config)


def write_folder(folder, size, seed=0, dtype="f32", shard_bytes=1 << 40, report=lambda line: None, control=None):
    """Writes both folders; those that exist are replaced."""
    options, folder = options_of(size, control), Path(folder)

    def write(path, module):
        write_network(path, module, seed, dtype, shard_bytes, report)

    write_prior(folder / "prior", options, KandinskyPriorPipeline, write)
    decoder = folder / "decoder"
    empty(decoder)
    vocabulary = write_tokenizer(decoder / "tokenizer", **options["words"])
    write(decoder / "text_encoder", multilingual(options, vocabulary))
    publish_config(decoder / "text_encoder" / "config.json")
    for which in kandinsky_folders.NETWORKS["decoder"]:
        write(decoder / which, network(which, options))
    DDIMScheduler(**options["scheduler"]).save_pretrained(decoder / "scheduler")
    CONTROLS[control][0](
        text_encoder=multilingual(options, vocabulary),
        tokenizer=XLMRobertaTokenizer.from_pretrained(decoder / "tokenizer"),
        scheduler=DDIMScheduler.from_pretrained(decoder / "scheduler"),
        **{name: network(name, options) for name in kandinsky_folders.NETWORKS["decoder"]},
    ).save_config(decoder)


if __name__ == "__main__":
    kandinsky_folders.main(__doc__.splitlines()[0], TOWERS, CONTROLS, write_folder)
