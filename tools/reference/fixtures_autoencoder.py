"""Fixtures of unclip-autoencoder: both kinds of autoencoders, whole and in tiles."""

from unittest import mock

from diffusers import AutoencoderKL, VQModel
from torch import nn

from common import Fixture

SCRIPT = "fixtures_autoencoder.py"
CRATE = "unclip-autoencoder"

#: Sizes that both kinds share. Three levels, of which the second changes its channels.
SIZES = {
    "block_out_channels": [4, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "latent_channels": 4,
    "sample_size": 32,
}


def files():
    """Paths and contents of all fixtures of the crate."""
    for build in (kl, movq, vq):
        yield build().file()


def kl():
    """Stable Diffusion's kind: distributions, scaled; also in tiles."""
    config = {
        **SIZES,
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "scaling_factor": 0.18215,
    }
    fixture = Fixture(SCRIPT, CRATE, "kl", config)
    model = fixture.weights(AutoencoderKL(**config))
    pictures = fixture.input("pictures", fixture.randn(2, 3, 8, 16).clamp(-1, 1))
    encoded = model.encode(pictures).latent_dist
    noise = fixture.input("noise", fixture.randn(*encoded.mean.shape))
    fixture.output("mean", encoded.mean * config["scaling_factor"])
    fixture.output("deviation", encoded.std * config["scaling_factor"])
    drawn = encoded.mean + encoded.std * noise
    fixture.output("drawn", drawn * config["scaling_factor"])
    latents = fixture.input("latents", fixture.randn(2, 4, 2, 4))
    fixture.output("decoded", model.decode(latents / config["scaling_factor"]).sample)

    model.enable_tiling()
    large = fixture.input("large", fixture.randn(1, 3, 36, 40).clamp(-1, 1))
    fixture.output("tiled_mean", model.encode(large).latent_dist.mean * config["scaling_factor"])
    latents = fixture.input("large_latents", fixture.randn(1, 4, 9, 10))
    fixture.output("tiled_decoded", model.decode(latents / config["scaling_factor"]).sample)
    return fixture


def with_groups(groups):
    """Lets the norms that read the latent have as many groups as the others, in place of 32."""
    plain = nn.GroupNorm

    def norm(num_groups, num_channels, **rest):
        return plain(num_groups=groups, num_channels=num_channels, **rest)

    return mock.patch("diffusers.models.attention_processor.nn.GroupNorm", norm)


def codes(case, **more):
    """An autoencoder with a codebook, whose latents are rounded or not."""
    config = {
        **SIZES,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
        "num_vq_embeddings": 24,
        **more,
    }
    fixture = Fixture(SCRIPT, CRATE, case, config)
    with with_groups(config["norm_num_groups"]):
        model = VQModel(**config)
    model = fixture.weights(model)
    pictures = fixture.input("pictures", fixture.randn(2, 3, 8, 16).clamp(-1, 1))
    encoded = fixture.output("encoded", model.encode(pictures).latents)
    quantized, _, (_, _, indices) = model.quantize(encoded)
    fixture.output("codes", indices.reshape(2, 2, 4))
    fixture.output("quantized", quantized)
    latents = fixture.input("latents", fixture.randn(*encoded.shape))
    fixture.output("decoded", model.decode(latents, force_not_quantize=True).sample)
    return fixture


def movq():
    """Kandinsky's kind, in which the latent modulates the norms of the decoder."""
    return codes("movq", norm_type="spatial", vq_embed_dim=4)


def vq():
    """With a codebook and plain norms; a code is narrower than a latent."""
    return codes("vq", vq_embed_dim=3)
