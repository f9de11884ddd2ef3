"""Fixtures of unclip-decoder: the text projection and one guided call of the decoder."""

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

from common import Fixture
from fixtures_nn import decoder_config

SCRIPT = "fixtures_decoder.py"
CRATE = "unclip-decoder"


def files():
    """Paths and contents of all fixtures of the crate."""
    yield text_proj().file()
    yield decoder().file()


def projection_config(time_embed_dim):
    """A text projection for embeddings of width 24 and a context of width 8."""
    return {
        "clip_extra_context_tokens": 4,
        "clip_embeddings_dim": 24,
        "time_embed_dim": time_embed_dim,
        "cross_attention_dim": 8,
    }


def conditioning(fixture):
    """Random image and text conditions of two items, and those of the empty prompt.

    As in UnCLIPPipeline the guided batch is the unconditional half followed by the conditional
    one, and every unconditional row is the same.
    """
    image = fixture.input("image_embeds", fixture.randn(2, 24))
    text = fixture.input("prompt_embeds", fixture.randn(2, 24))
    tokens = fixture.input("text_hidden_states", fixture.randn(2, 6, 24))
    empty_text = fixture.input("uncond_prompt_embeds", fixture.randn(1, 24))
    empty_tokens = fixture.input("uncond_text_hidden_states", fixture.randn(1, 6, 24))
    guided_text = torch.cat([empty_text.expand(2, -1), text])
    guided_tokens = torch.cat([empty_tokens.expand(2, -1, -1), tokens])
    return image, (text, tokens), (guided_text, guided_tokens)


def text_proj():
    """The projection without guidance (2 rows) and with it (2 unconditional, 2 conditional)."""
    config = projection_config(time_embed_dim=32)
    fixture = Fixture(SCRIPT, CRATE, "text_proj", config)
    module = fixture.weights(UnCLIPTextProjModel(**config))
    image, plain, guided = conditioning(fixture)
    for prefix, guidance, (text, tokens) in (("", False, plain), ("guided_", True, guided)):
        context, time = module(
            image_embeddings=image,
            prompt_embeds=text,
            text_encoder_hidden_states=tokens,
            do_classifier_free_guidance=guidance,
        )
        fixture.output(f"{prefix}context", context)
        fixture.output(f"{prefix}time", time)
    return fixture


def decoder():
    """One guided evaluation of the decoder, from embeddings to guided noise."""
    projection = projection_config(time_embed_dim=16)
    unet = decoder_config([4, 8], norm_num_groups=2, attention_head_dim=4)
    guidance_scale = 8.0
    config = {"text_proj": projection, "decoder": unet, "guidance_scale": guidance_scale}
    fixture = Fixture(SCRIPT, CRATE, "decoder", config)
    project = fixture.weights(UnCLIPTextProjModel(**projection), "text_proj.")
    model = fixture.weights(UNet2DConditionModel(**unet), "decoder.")

    image, _, (text, tokens) = conditioning(fixture)
    mask = fixture.input("attention_mask", torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]))
    empty_mask = fixture.input("uncond_attention_mask", torch.tensor([[1, 1, 0, 0, 0, 0]]))
    sample = fixture.input("sample", fixture.randn(2, 3, 8, 12))
    timestep = fixture.input("timestep", torch.tensor([500]))

    context, time = project(
        image_embeddings=image,
        prompt_embeds=text,
        text_encoder_hidden_states=tokens,
        do_classifier_free_guidance=True,
    )
    fixture.output("context", context)
    fixture.output("time", time)
    text_mask = torch.cat([empty_mask.expand(2, -1), mask]).bool()
    raw = model(
        torch.cat([sample, sample]),
        timestep[0],
        encoder_hidden_states=context,
        class_labels=time,
        attention_mask=F.pad(text_mask, (projection["clip_extra_context_tokens"], 0), value=True),
    ).sample
    fixture.output("raw", raw)

    uncond, cond = raw.chunk(2)
    uncond_noise, _ = uncond.split(3, dim=1)
    cond_noise, variance = cond.split(3, dim=1)
    noise = uncond_noise + guidance_scale * (cond_noise - uncond_noise)
    fixture.output("guided", torch.cat([noise, variance], dim=1))
    return fixture
