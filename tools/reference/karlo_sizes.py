"""The sizes in which `karlo_folders.py` makes Karlo: the published one and small ones for tests.

One entry of `SIZES` holds the arguments of each class of the folder. What the classes force to
be equal (the widths of text tower and embedding, the number of tokens, the time width) is derived
in one place, `size`, so that a size cannot contradict itself.
"""

IMAGE_MEAN = [0.48145466, 0.4578275, 0.40821073]
IMAGE_STD = [0.26862954, 0.26130258, 0.27577711]


def size(
    *,
    width,
    tokens,
    vocabulary,
    merges,
    text,
    prior,
    context,
    extra_tokens,
    decoder,
    super_res,
    image,
    clip_ranges,
    decoder_variance="learned_range",
):
    """The arguments of every component.

    `width` is that of the text tower and of the embedding at once: both are inputs of the same
    projections in the prior and in the text projection. `merges` counts the merges of the
    tokenizer; with `vocabulary` None the vocabulary is as large as they make it.
    """
    vocabulary = vocabulary or 512 + merges + 2
    prior_range, decoder_range, super_res_range = clip_ranges
    text = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "max_position_embeddings": tokens,
        "projection_dim": width,
        "bos_token_id": 0,
        "eos_token_id": 2,  # not the id of the end token: the published file has this and pools by argmax
        "pad_token_id": 1,
        **text,
    }
    if text["eos_token_id"] == "real":
        text.update(bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=0)
    return {
        "tokenizer": {"merges": merges, "vocabulary": vocabulary, "tokens": tokens},
        "text_encoder": text,
        "prior": {"embedding_dim": width, "num_embeddings": tokens, "additional_embeddings": 4, **prior},
        "text_proj": {
            "clip_extra_context_tokens": extra_tokens,
            "clip_embeddings_dim": width,
            "time_embed_dim": 4 * decoder["block_out_channels"][0],
            "cross_attention_dim": context,
        },
        "decoder": unet_decoder(cross_attention_dim=context, **decoder),
        "super_res": unet_super_res(**super_res),
        "image_encoder": {"projection_dim": width, **image},
        "feature_extractor": image["image_size"],
        "prior_scheduler": scheduler("sample", "fixed_small_log", prior_range),
        "decoder_scheduler": scheduler("epsilon", decoder_variance, decoder_range),
        "super_res_scheduler": scheduler("epsilon", "fixed_small_log", super_res_range),
    }


def unet_decoder(**options):
    """A decoder: no attention on the finest level, one after every residual block below."""
    below = len(options["block_out_channels"]) - 1
    return {
        "in_channels": 3,
        "out_channels": 6,
        "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * below,
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ["SimpleCrossAttnUpBlock2D"] * below + ["ResnetUpsampleBlock2D"],
        "class_embed_type": "identity",
        "resnet_time_scale_shift": "scale_shift",
        **options,
    }


def unet_super_res(**options):
    """A super-resolution network: no attention anywhere."""
    levels = len(options["block_out_channels"])
    return {
        "in_channels": 6,
        "out_channels": 3,
        "down_block_types": ["ResnetDownsampleBlock2D"] * levels,
        "up_block_types": ["ResnetUpsampleBlock2D"] * levels,
        "add_attention": False,
        "resnet_time_scale_shift": "default",
        **options,
    }


def scheduler(prediction_type, variance_type, clip_sample_range):
    """The settings of an `UnCLIPScheduler`."""
    return {
        "num_train_timesteps": 1000,
        "prediction_type": prediction_type,
        "variance_type": variance_type,
        "clip_sample": True,
        "clip_sample_range": clip_sample_range,
    }


def tower(width, layers, heads, activation="quick_gelu", **options):
    """The options that both CLIP towers have, with a hidden layer of four times the width."""
    return {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "hidden_act": activation,
        **options,
    }


SIZES = {
    # What lies in the repository: like the published one too, each weight file below 100 kB.
    "micro": size(
        width=16,
        tokens=10,
        vocabulary=None,
        merges=40,
        text=tower(16, 2, 2),
        prior={"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2},
        context=12,
        extra_tokens=4,
        decoder={
            "sample_size": 8,
            "block_out_channels": [4, 4, 8],
            "layers_per_block": 1,
            "attention_head_dim": 4,
            "norm_num_groups": 2,
        },
        super_res={
            "sample_size": 32,
            "block_out_channels": [4, 8],
            "layers_per_block": 1,
            "norm_num_groups": 2,
        },
        image=tower(16, 2, 2, hidden_size=16, image_size=24, patch_size=8),
        clip_ranges=(5.0, 1.0, 1.0),
    ),
    # Like the published one in everything but the numbers.
    "tiny": size(
        width=24,
        tokens=24,
        vocabulary=None,
        merges=80,
        text=tower(24, 2, 3),
        prior={"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2},
        context=16,
        extra_tokens=4,
        decoder={
            "sample_size": 16,
            "block_out_channels": [8, 12, 16],
            "layers_per_block": 1,
            "attention_head_dim": 4,
            "norm_num_groups": 4,
        },
        super_res={
            "sample_size": 64,
            "block_out_channels": [8, 12, 12],
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        image=tower(32, 2, 4, hidden_size=32, image_size=32, patch_size=8),
        clip_ranges=(5.0, 1.0, 1.0),
    ),
    # Differs from the published one wherever a configuration can say so: nothing may be assumed.
    "odd": size(
        width=20,
        tokens=21,
        vocabulary=None,
        merges=77,
        text=tower(20, 3, 5, "gelu", layer_norm_eps=1e-6, eos_token_id="real"),
        prior={"num_attention_heads": 3, "attention_head_dim": 6, "num_layers": 3},
        context=18,
        extra_tokens=3,
        decoder={
            "sample_size": 12,
            "block_out_channels": [12, 18],
            "layers_per_block": 2,
            "attention_head_dim": 6,
            "norm_num_groups": 3,
            "norm_eps": 1e-6,
            "resnet_time_scale_shift": "default",
        },
        super_res={
            "sample_size": 36,
            "block_out_channels": [6, 6, 12],
            "layers_per_block": 2,
            "norm_num_groups": 2,
            "norm_eps": 1e-6,
            "resnet_time_scale_shift": "scale_shift",
        },
        image=tower(10, 3, 2, "gelu", hidden_size=18, image_size=30, patch_size=6, layer_norm_eps=1e-6),
        clip_ranges=(3.5, 0.8, 0.9),
    ),
    "small": size(
        width=128,
        tokens=32,
        vocabulary=None,
        merges=256,
        text=tower(128, 4, 4),
        prior={"num_attention_heads": 4, "attention_head_dim": 64, "num_layers": 4},
        context=96,
        extra_tokens=4,
        decoder={
            "sample_size": 32,
            "block_out_channels": [32, 64, 64, 96],
            "layers_per_block": 2,
            "attention_head_dim": 32,
            "norm_num_groups": 8,
        },
        super_res={
            "sample_size": 128,
            "block_out_channels": [32, 32, 64, 96],
            "layers_per_block": 1,
            "norm_num_groups": 8,
        },
        image=tower(128, 3, 4, hidden_size=128, image_size=64, patch_size=16),
        clip_ranges=(5.0, 1.0, 1.0),
    ),
    # For measuring training beside diffusers (`tools/compare`): a U-Net of the bundled model's
    # channels, whose loss is the mean squared error alone.
    "timing": size(
        width=64,
        tokens=24,
        vocabulary=None,
        merges=80,
        text=tower(64, 2, 1),
        prior={"num_attention_heads": 4, "attention_head_dim": 24, "num_layers": 3},
        context=96,
        extra_tokens=4,
        decoder={
            "sample_size": 32,
            "out_channels": 3,
            "block_out_channels": [32, 64],
            "layers_per_block": 1,
            "attention_head_dim": 32,
            "norm_num_groups": 8,
        },
        decoder_variance="fixed_small_log",
        super_res={
            "sample_size": 128,
            "block_out_channels": [32, 64],
            "layers_per_block": 1,
            "norm_num_groups": 8,
        },
        image=tower(64, 2, 1, hidden_size=64, image_size=32, patch_size=8),
        clip_ranges=(5.0, 1.0, 1.0),
    ),
    # What the original layout needs, as small as it can be. It has no configurations, so this has
    # the published widths of heads, groups of norms, sides of pictures, activation and clamp of
    # the prior; at least two heads in the prior and in the decoder, whose rows are interleaved.
    "original": size(
        width=64,
        tokens=24,
        vocabulary=None,
        merges=80,
        text=tower(64, 2, 1),
        prior={"num_attention_heads": 2, "attention_head_dim": 64, "num_layers": 2},
        context=48,
        extra_tokens=3,
        decoder={
            "sample_size": 64,
            "block_out_channels": [32, 128],
            "layers_per_block": 1,
            "attention_head_dim": 64,
            "norm_num_groups": 32,
        },
        super_res={
            "sample_size": 256,
            "block_out_channels": [32, 32],
            "layers_per_block": 1,
            "norm_num_groups": 32,
        },
        image=tower(64, 2, 1, hidden_size=64, image_size=32, patch_size=8),
        clip_ranges=(10.0, 1.0, 1.0),  # the original leaves the prior 10, diffusers' files 5
    ),
    # kakaobrain/karlo-v1-alpha
    "full": size(
        width=768,
        tokens=77,
        vocabulary=49408,
        merges=256,
        text=tower(768, 12, 12),
        prior={"num_attention_heads": 32, "attention_head_dim": 64, "num_layers": 20},
        context=1536,
        extra_tokens=4,
        decoder={
            "sample_size": 64,
            "block_out_channels": [320, 640, 960, 1280],
            "layers_per_block": 3,
            "attention_head_dim": 64,
            "norm_num_groups": 32,
        },
        super_res={
            "sample_size": 256,
            "block_out_channels": [320, 640, 960, 1280],
            "layers_per_block": 3,
            "norm_num_groups": 32,
        },
        image=tower(1024, 24, 16, hidden_size=1024, image_size=224, patch_size=14),
        clip_ranges=(5.0, 1.0, 1.0),
    ),
}
