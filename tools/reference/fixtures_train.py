"""Fixtures of unclip-train: for every stage the loss of a step, its gradients, and 20 steps of AdamW.

The steps clip the norm of all gradients, decay the weights of products alone, follow a learning rate that rises, stays
and falls, and average the weights. Everything runs in f64. Of each gradient and weight only a signature is kept: sums
with fixed weights, any of which a wrong value would change.
"""

import json
import math

import torch
import torch.nn.functional as F
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from common import Fixture, to_json
from fixtures_core import HybridLoss
from fixtures_decoder import projection_config
from fixtures_nn import decoder_config, upsampler_config
from fixtures_prior import ArPrior

SCRIPT = "fixtures_train.py"
CRATE = "unclip-train"

STEPS = 20
SETTINGS = {
    "steps": STEPS,
    "learning_rate": 0.01,
    "warmup": 4,
    "cooldown": 6,
    "beta_1": 0.9,
    "beta_2": 0.99,
    # far above what rounding leaves of gradients that are 0, such as those of attention's biases of keys
    "epsilon": 1e-3,
    "weight_decay": 0.1,
    "max_norm": 0.5,
    "ema_decay": 0.8,
}


def files():
    """Paths and contents of all fixtures of the crate."""
    for make in (clip, prior, ar_prior, decoder, upsampler):
        yield make().file()


def signature(value):
    """Sums of a tensor's values with fixed weights, and its length."""
    flat = value.detach().double().flatten()
    places = torch.arange(flat.numel(), dtype=torch.float64)
    sums = [flat.sum(), (flat * (0.7 * places).cos()).sum(), (flat * (1.3 * places).sin()).sum()]
    return torch.stack([*sums, flat.norm()])


def learning_rate(step):
    """The rate of a step: a linear rise, a plateau, a linear fall."""
    rise = min((step + 1) / SETTINGS["warmup"], 1.0)
    left = (STEPS - step) / (SETTINGS["cooldown"] + 1)
    return SETTINGS["learning_rate"] * rise * min(max(left, 0.02), 1.0)


def train(fixture, modules, loss, free=()):
    """Records the loss and the gradients of the first step, and losses, weights and averages of all steps.

    ``modules`` has the modules by the beginnings of their parameters' names, ``free`` parameters of no module.
    """
    named = {f"{prefix}{key}": value for prefix, module in modules.items() for key, value in module.named_parameters()}
    decays = {
        f"{prefix}{name}.weight"
        for prefix, module in modules.items()
        for name, inner in module.named_modules()
        if isinstance(inner, (nn.Linear, nn.Conv2d))
    }
    named.update(free)
    averages = {name: value.detach().clone() for name, value in named.items()}
    groups = [
        {"params": [value for name, value in named.items() if name in decays], "weight_decay": SETTINGS["weight_decay"]},
        {"params": [value for name, value in named.items() if name not in decays], "weight_decay": 0.0},
    ]
    betas = (SETTINGS["beta_1"], SETTINGS["beta_2"])
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=SETTINGS["epsilon"])
    losses = []
    with torch.enable_grad():
        for step in range(STEPS):
            optimizer.zero_grad()
            value = loss(step)
            value.backward()
            losses.append(value.item())
            if step == 0:
                gradients = [torch.zeros_like(it) if it.grad is None else it.grad for it in named.values()]
                fixture.output("gradients", torch.stack([signature(it) for it in gradients]))
            norm = torch.nn.utils.clip_grad_norm_(named.values(), SETTINGS["max_norm"])
            if step == 0:
                fixture.output("norm", norm.detach().double())
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
            optimizer.step()
            decay = min(SETTINGS["ema_decay"], (1 + step) / (10 + step))
            for name, average in averages.items():
                average.mul_(decay).add_(named[name].detach(), alpha=1 - decay)
    fixture.output("losses", torch.tensor(losses, dtype=torch.float64))
    fixture.output("weights", torch.stack([signature(it) for it in named.values()]))
    fixture.output("averages", torch.stack([signature(it) for it in averages.values()]))
    config = json.loads(fixture.metadata["config"])
    fixture.metadata["config"] = to_json({**config, "parameters": list(named)})
    return fixture


def fixture_of(case, config):
    """A fixture with the settings of the steps in its configuration."""
    return Fixture(SCRIPT, CRATE, case, {"sizes": config, "train": SETTINGS})


def noise_of(fixture, shape):
    """Noise and timesteps of every step: two noises are kept, and each step has them in other shares."""
    first, second = fixture.input("noise", fixture.randn(2, *shape)).double()
    noise = [first * math.cos(step) + second * math.sin(step) for step in range(STEPS)]
    levels = fixture.input("timesteps", torch.from_numpy(fixture.rng.integers(1, 1000, size=(STEPS, shape[0]))))
    return noise, levels


def noised(clean, noise, timesteps):
    """A clean batch at these levels of the cosine schedule."""
    alpha_bar = HybridLoss().alpha_bar.flatten()[timesteps].reshape(-1, *[1] * (clean.dim() - 1))
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def clip():
    """CLIP: captions and pictures against each other, with a temperature that is learned."""
    text_config = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
        "projection_dim": 12,
        "hidden_act": "quick_gelu",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    image_config = {
        "image_size": 8,
        "patch_size": 4,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 12,
        "hidden_act": "quick_gelu",
    }
    fixture = fixture_of("step_clip", {"text": text_config, "image": image_config})
    text = fixture.weights(CLIPTextModelWithProjection(CLIPTextConfig(**text_config)), "text.").double()
    image = fixture.weights(CLIPVisionModelWithProjection(CLIPVisionConfig(**image_config)), "image.").double()
    scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)], dtype=torch.float64))
    ids = torch.tensor([[62, 5 + row, 17 - row, 63, 0, 0, 0, 0] for row in range(4)])
    fixture.input("input_ids", ids)
    pixels = fixture.input("pixel_values", fixture.randn(4, 3, 8, 8)).double()

    def loss(_):
        texts = F.normalize(text(input_ids=ids).text_embeds)
        images = F.normalize(image(pixel_values=pixels).image_embeds)
        logits = scale.exp() * images @ texts.T
        target = torch.arange(4)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    return train(fixture, {"text.": text, "image.": image}, loss, {"logit_scale": scale})


def prior():
    """The diffusion prior, which predicts clean embeddings."""
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 1,
        "embedding_dim": 12,
        "num_embeddings": 6,
        "additional_embeddings": 4,
    }
    fixture = fixture_of("step_prior", config)
    module = PriorTransformer(**config)
    statistics = module.clip_mean, module.clip_std
    module = fixture.weights(module).double()
    for statistic in statistics:
        statistic.requires_grad_(False)
    text = fixture.input("proj_embedding", fixture.randn(3, 12)).double()
    tokens = fixture.input("encoder_hidden_states", fixture.randn(3, 6, 12)).double()
    mask = fixture.input("attention_mask", (torch.arange(6)[None, :] < torch.tensor([[6], [4], [2]])).long())
    image = fixture.input("image", fixture.randn(3, 12)).double()
    noise, levels = noise_of(fixture, (3, 12))
    clean = ((image - module.clip_mean) / module.clip_std).detach()

    def loss(step):
        found = module(
            noised(clean, noise[step], levels[step]),
            levels[step],
            proj_embedding=text,
            encoder_hidden_states=tokens,
            attention_mask=mask.bool(),
        )
        return ((found.predicted_image_embedding - clean) ** 2).mean()

    named = dict(module.named_parameters())
    assert named.pop("clip_mean") is module.clip_mean and named.pop("clip_std") is module.clip_std
    del module.clip_mean, module.clip_std
    module.clip_mean, module.clip_std = (value.detach() for value in statistics)
    return train(fixture, {"": module}, loss)


def ar_prior():
    """The autoregressive prior."""
    config = {
        "d_embedding": 12,
        "d_text": 10,
        "context": 6,
        "codes": 4,
        "buckets": 8,
        "similarities": 4,
        "width": 16,
        "heads": 2,
        "hidden": 32,
        "layers": 1,
    }
    fixture = fixture_of("step_ar_prior", config)
    module = ArPrior(**config)
    book = module.codebook
    half = lambda x: x.to(torch.float16).to(torch.float32)
    book.clip.mean.copy_(half(0.3 * fixture.randn(1, 12)))
    book.clip.std.copy_(half(1.0 + 0.2 * fixture.randn(1, 12)))
    book.clip.basis.copy_(half(torch.linalg.qr(fixture.randn(12, 12))[0]))
    book.low.copy_(half(-1.5 + 0.2 * fixture.randn(1, 4)))
    book.high.copy_(half(1.5 + 0.2 * fixture.randn(1, 4)))
    book.edges.copy_(torch.tensor([[-0.25, 0.0, 0.25]]))
    module = fixture.weights(module).double()
    mask = fixture.input("attention_mask", (torch.arange(6)[None, :] < torch.tensor([[6], [4], [2]])).long())
    tokens = fixture.input("tokens", fixture.randn(3, 6, 10)).double()
    text = fixture.input("text", fixture.randn(3, 12)).double()
    image = fixture.input("image", fixture.randn(3, 12)).double()
    unknown = fixture.input("unknown", torch.tensor([0, 1, 0]))
    codes = module.encode(image)
    told = torch.where(unknown == 1, 4, module.similarity(image, text))

    def loss(_):
        odds = module(tokens, mask, text, told, codes[:, :-1])
        return -odds.gather(2, codes[:, :, None]).mean()

    return train(fixture, {"": module}, loss)


def decoder():
    """The decoder, which learns its variance: the hybrid loss. The embedding of the second picture is dropped."""
    projection = {**projection_config(time_embed_dim=16), "clip_embeddings_dim": 12}
    unet = decoder_config([4, 8], norm_num_groups=2, attention_head_dim=4)
    fixture = fixture_of("step_decoder", {"text_proj": projection, "unet": unet})
    project = fixture.weights(UnCLIPTextProjModel(**projection), "text_proj.").double()
    model = fixture.weights(UNet2DConditionModel(**unet), "unet.").double()
    image = fixture.input("image_embeds", fixture.randn(2, 12)).double()
    text = fixture.input("prompt_embeds", fixture.randn(2, 12)).double()
    tokens = fixture.input("text_hidden_states", fixture.randn(2, 6, 12)).double()
    mask = fixture.input("attention_mask", torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]))
    clean = fixture.input("x_0", fixture.randn(2, 3, 8, 8, scale=0.4).clamp(-1, 1)).double()
    noise, levels = noise_of(fixture, (2, 3, 8, 8))
    hybrid = HybridLoss()

    def loss(step):
        null = project.learned_classifier_free_guidance_embeddings
        context, time = project(
            image_embeddings=torch.stack([image[0], null]),
            prompt_embeds=text,
            text_encoder_hidden_states=tokens,
            do_classifier_free_guidance=False,
        )
        seen = F.pad(mask.bool(), (projection["clip_extra_context_tokens"], 0), value=True)
        x_t = noised(clean, noise[step], levels[step])
        found = model(x_t, levels[step], encoder_hidden_states=context, class_labels=time, attention_mask=seen).sample
        mse, bound = hybrid.terms(found, clean, x_t, noise[step], levels[step])
        return (mse + bound).mean()

    return train(fixture, {"text_proj.": project, "unet.": model}, loss)


def upsampler():
    """An upsampler, which predicts clean pictures."""
    config = upsampler_config()
    fixture = fixture_of("step_upsampler", config)
    module = fixture.weights(UNet2DModel(**config), "unet.").double()
    low = fixture.input("low_res", fixture.randn(2, 3, 4, 4, scale=0.2).clamp(-1, 1)).double()
    clean = fixture.input("x_0", fixture.randn(2, 3, 8, 8, scale=0.4).clamp(-1, 1)).double()
    noise, levels = noise_of(fixture, (2, 3, 8, 8))
    large = F.interpolate(low, size=(8, 8), mode="bicubic", align_corners=False, antialias=True)

    def loss(step):
        x_t = noised(clean, noise[step], levels[step])
        return ((module(torch.cat([x_t, large], dim=1), levels[step]).sample - clean) ** 2).mean()

    return train(fixture, {"unet.": module}, loss)
