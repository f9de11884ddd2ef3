"""Fixtures of unclip-upsample: one call of the upsampler and the blur it was trained with."""

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel

from common import Fixture
from fixtures_nn import upsampler_config

SCRIPT = "fixtures_upsample.py"
CRATE = "unclip-upsample"


def files():
    """Paths and contents of all fixtures of the crate."""
    yield upsampler().file()
    yield blur().file()


def upsampler():
    """A noisy image followed by the enlarged low-resolution one, through the U-Net."""
    config = upsampler_config()
    fixture = Fixture(SCRIPT, CRATE, "upsampler", config)
    module = fixture.weights(UNet2DModel(**config))
    low = fixture.input("low_res", fixture.randn(2, 3, 4, 6, scale=0.5))
    noisy = fixture.input("sample", fixture.randn(2, 3, 8, 12))
    timestep = fixture.input("timestep", torch.tensor([666, 0]))
    large = F.interpolate(low, size=(8, 12), mode="bicubic", align_corners=False, antialias=True)
    fixture.output("resized", large)
    fixture.output("sample", module(torch.cat([noisy, large], dim=1), timestep).sample)
    return fixture


def blur():
    """A separable Gaussian blur with reflected borders (the edge itself is not repeated)."""
    kernel_size, sigma = 3, 0.6
    config = {"kernel_size": kernel_size, "sigma": sigma, "padding": "reflect"}
    fixture = Fixture(SCRIPT, CRATE, "blur", config)
    image = fixture.input("image", fixture.randn(2, 3, 9, 7))
    radius = kernel_size // 2
    positions = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (positions / sigma) ** 2)
    kernel = kernel / kernel.sum()
    square = (kernel[:, None] * kernel[None, :]).expand(3, 1, -1, -1)
    padded = F.pad(image, [radius] * 4, mode="reflect")
    fixture.output("kernel", kernel)
    fixture.output("image", F.conv2d(padded, square, groups=3))
    return fixture
