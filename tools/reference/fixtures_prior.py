"""Fixtures of unclip-prior: the diffusion prior."""

import torch
from diffusers import PriorTransformer

from common import Fixture

SCRIPT = "fixtures_prior.py"
CRATE = "unclip-prior"


def files():
    """Paths and contents of all fixtures of the crate."""
    yield prior().file()


def prior():
    """The prior with text of three lengths, and its latents mapped back to embeddings."""
    config = {
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "num_layers": 2,
        "embedding_dim": 24,
        "num_embeddings": 12,
        "additional_embeddings": 4,
    }
    fixture = Fixture(SCRIPT, CRATE, "prior", config)
    module = fixture.weights(PriorTransformer(**config))
    lengths = torch.tensor([12, 5, 2])
    mask = (torch.arange(12)[None, :] < lengths[:, None]).to(torch.int64)
    hidden = fixture.input("hidden_states", fixture.randn(3, 24))
    timestep = fixture.input("timestep", torch.tensor([999, 500, 0]))
    text = fixture.input("proj_embedding", fixture.randn(3, 24))
    tokens = fixture.input("encoder_hidden_states", fixture.randn(3, 12, 24))
    fixture.input("attention_mask", mask)
    predicted = module(
        hidden,
        timestep,
        proj_embedding=text,
        encoder_hidden_states=tokens,
        attention_mask=mask.bool(),
    ).predicted_image_embedding
    fixture.output("predicted", predicted)
    fixture.output("image_embedding", module.post_process_latents(predicted))
    return fixture
