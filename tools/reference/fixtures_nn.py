"""Fixtures of unclip-nn: embeddings, blocks and both U-Nets."""

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnAddedKVProcessor2_0
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D

from common import Fixture

SCRIPT = "fixtures_nn.py"
CRATE = "unclip-nn"

#: Additive value of a masked position in diffusers.
MASKED = -10000.0


def files():
    """Paths and contents of all fixtures of the crate."""
    for build in (
        timestep_embedding,
        time_embedding,
        transformer_block,
        attention_block,
        unet_decoder,
        unet_upsample,
    ):
        yield build().file()
    for suffix, norm, extra in (
        ("scale_shift", "scale_shift", {}),
        ("default", "default", {}),
        ("down", "scale_shift", {"down": True}),
        ("up", "scale_shift", {"up": True}),
        ("down_default", "default", {"down": True}),
        ("up_default", "default", {"up": True}),
    ):
        yield res_block(suffix, norm, extra).file()


def timestep_embedding():
    """Sinusoids, cosine half first."""
    dims = [320, 32]
    config = {"dims": dims, "flip_sin_to_cos": True, "downscale_freq_shift": 0}
    fixture = Fixture(SCRIPT, CRATE, "timestep_embedding", config)
    timesteps = fixture.input("timesteps", torch.tensor([0.0, 1.0, 41.0, 500.0, 999.0, 12.5]))
    for dim in dims:
        embedding = get_timestep_embedding(
            timesteps, dim, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        fixture.output(f"dim_{dim}", embedding)
    return fixture


def time_embedding():
    """The two-layer perceptron behind the sinusoid."""
    config = {"in_channels": 16, "time_embed_dim": 32, "act_fn": "silu"}
    fixture = Fixture(SCRIPT, CRATE, "time_embedding", config)
    module = fixture.weights(TimestepEmbedding(**config))
    sample = fixture.input("sample", fixture.randn(3, 16))
    fixture.output("embedding", module(sample))
    return fixture


def transformer_block():
    """One block of the prior under the mask that the prior builds: causal plus padding."""
    config = {
        "dim": 32,
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "activation_fn": "gelu",
        "attention_bias": True,
    }
    additional = 2
    fixture = Fixture(SCRIPT, CRATE, "transformer_block", {**config, "additional_tokens": additional})
    module = fixture.weights(BasicTransformerBlock(**config))
    hidden = fixture.input("hidden_states", fixture.randn(3, 7, 32))
    text_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    fixture.input("attention_mask", text_mask)

    padded = torch.nn.functional.pad(1 - text_mask, (0, additional))[:, None, :]
    causal = torch.ones(1, 7, 7, dtype=torch.int64).triu(1)
    fixture.input("masked", ((padded + causal) > 0).to(torch.int64))
    additive = (padded + causal).to(torch.float32) * MASKED
    additive = additive.repeat_interleave(config["num_attention_heads"], dim=0)
    fixture.output("hidden_states", module(hidden, attention_mask=additive))
    return fixture


def res_block(suffix, norm, extra):
    """A residual block: with a shortcut, or resampling at a constant number of channels."""
    config = {
        "in_channels": 8,
        "out_channels": 8 if extra else 12,
        "temb_channels": 16,
        "groups": 4,
        "eps": 1e-5,
        "non_linearity": "silu",
        "time_embedding_norm": norm,
        **extra,
    }
    fixture = Fixture(SCRIPT, CRATE, f"res_block_{suffix}", config)
    module = fixture.weights(ResnetBlock2D(**config))
    size = {"down": (6, 10), "up": (3, 5)}.get(next(iter(extra), ""), (5, 7))
    hidden = fixture.input("hidden_states", fixture.randn(2, 8, *size))
    temb = fixture.input("temb", fixture.randn(2, 16))
    fixture.output("hidden_states", module(hidden, temb))
    return fixture


def attention_block():
    """Attention over context and pixels as the cross-attention blocks of the decoder build it."""
    config = {
        "query_dim": 16,
        "cross_attention_dim": 16,
        "heads": 2,
        "dim_head": 8,
        "added_kv_proj_dim": 12,
        "norm_num_groups": 4,
        "bias": True,
        "upcast_softmax": True,
    }
    fixture = Fixture(SCRIPT, CRATE, "attention_block", config)
    module = fixture.weights(Attention(**config, processor=AttnAddedKVProcessor2_0()))
    hidden = fixture.input("hidden_states", fixture.randn(3, 16, 3, 4))
    context = fixture.input("encoder_hidden_states", fixture.randn(3, 5, 12))
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 1, 1, 1], [1, 1, 1, 0, 1]])
    fixture.input("attention_mask", mask)
    additive = ((1 - mask.to(torch.float32)) * MASKED)[:, None, :]
    fixture.output("hidden_states", module(hidden, context, attention_mask=additive))
    return fixture


def decoder_config(block_out_channels, norm_num_groups, attention_head_dim):
    """A decoder U-Net like Karlo's, with two levels."""
    return {
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": block_out_channels,
        "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": norm_num_groups,
        "cross_attention_dim": 8,
        "attention_head_dim": attention_head_dim,
        "class_embed_type": "identity",
        "resnet_time_scale_shift": "scale_shift",
    }


def unet_decoder():
    """The conditional U-Net, with its own timestep for every item."""
    config = decoder_config([6, 12], norm_num_groups=3, attention_head_dim=4)
    fixture = Fixture(SCRIPT, CRATE, "unet_decoder", config)
    module = fixture.weights(UNet2DConditionModel(**config))
    sample = fixture.input("sample", fixture.randn(2, 3, 8, 12))
    timestep = fixture.input("timestep", torch.tensor([731, 12]))
    context = fixture.input("encoder_hidden_states", fixture.randn(2, 5, 8))
    labels = fixture.input("class_labels", fixture.randn(2, 24))
    mask = fixture.input("attention_mask", torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]))
    result = module(
        sample,
        timestep,
        encoder_hidden_states=context,
        class_labels=labels,
        attention_mask=mask.bool(),
    )
    fixture.output("sample", result.sample)
    return fixture


def upsampler_config():
    """An unconditional upsampling U-Net like Karlo's, with two levels."""
    return {
        "in_channels": 6,
        "out_channels": 3,
        "block_out_channels": [6, 12],
        "down_block_types": ["ResnetDownsampleBlock2D"] * 2,
        "up_block_types": ["ResnetUpsampleBlock2D"] * 2,
        "layers_per_block": 1,
        "norm_num_groups": 3,
        "add_attention": False,
        "resnet_time_scale_shift": "default",
    }


def unet_upsample():
    """The unconditional U-Net, with its own timestep for every item."""
    config = upsampler_config()
    fixture = Fixture(SCRIPT, CRATE, "unet_upsample", config)
    module = fixture.weights(UNet2DModel(**config))
    sample = fixture.input("sample", fixture.randn(2, 6, 8, 12))
    timestep = fixture.input("timestep", torch.tensor([832, 3]))
    fixture.output("sample", module(sample, timestep).sample)
    return fixture
