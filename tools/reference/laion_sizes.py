"""Sizes of LAION's models: configurations as DALLE2-pytorch reads them, very small ones and the published ones."""

#: What a configuration holds beside the model; nothing of it counts when the model draws.
TRAINING = {"data": {"batch_size": 64}, "train": {"lr": 1e-4}, "tracker": {"log": {"log_type": "console"}}}

OPENAI = {"make": "openai", "model": "ViT-L/14"}


def prior(dim, *, net, **own):
    """A prior's configuration."""
    own = {"image_embed_dim": dim, "image_size": 224, "clip": OPENAI, "loss_type": "l2", "cond_drop_prob": 0.1, **own}
    return {"prior": {**own, "net": {"dim": dim, "attn_dropout": 0.05, "ff_dropout": 0.05, **net}}, **TRAINING}


def decoder(unets, sizes, **own):
    """A decoder's configuration."""
    own = {"clip": OPENAI, "channels": 3, "loss_type": "l2", "image_cond_drop_prob": 0.1, **own}
    return {"seed": 1, "decoder": {"unets": unets, "image_sizes": sizes, **own}, **TRAINING, "evaluate": {}}


def unread(embedding):
    """A U-Net that is not read: what a file of upsamplers has in the first place."""
    return {"dim": 8, "cond_dim": 8, "image_embed_dim": embedding, "dim_mults": [1], "attn_dim_head": 8, "attn_heads": 1}


def clip(embedding, text, image, context, merges, vocabulary):
    """Sizes of CLIP: text is width and depth, image these with the sides of picture and patch."""
    return {
        "embedding": embedding,
        "text": text,
        "image": image,
        "context": context,
        "merges": merges,
        "vocabulary": vocabulary,
    }


def as_published(dim, cond, embedding, mults, blocks, heads, head):
    """LAION's kind of U-Net."""
    return {
        "dim": dim,
        "cond_dim": cond,
        "image_embed_dim": embedding,
        "text_embed_dim": embedding,
        "cond_on_text_encodings": True,
        "channels": 3,
        "dim_mults": mults,
        "num_resnet_blocks": blocks,
        "attn_heads": heads,
        "attn_dim_head": head,
        "sparse_attn": True,
        "memory_efficient": True,
        "self_attn": [False, *([True] * (len(mults) - 1))],
    }


SIZES = {
    # the published kind; both U-Nets in one file
    "micro": {
        "clip": clip(64, (64, 1), (64, 1, 24, 8), 20, 40, 554),
        "prior": prior(
            64,
            net={"depth": 2, "heads": 2, "dim_head": 16, "num_timesteps": 1000, "max_text_len": 20, "normformer": True},
            sample_timesteps=5,
        ),
        "decoder": decoder(
            [
                {**as_published(16, 24, 64, [1, 2], 1, 2, 8), "max_text_len": 24},
                {
                    "dim": 16,
                    "cond_dim": 12,
                    "dim_mults": [1, 2],
                    "num_resnet_blocks": 1,
                    "attn_heads": 1,
                    "memory_efficient": True,
                },
            ],
            [16, 32],
            timesteps=8,
            beta_schedule=["cosine", "cosine"],
            learned_variance=True,
        ),
    },
    # every other kind; upsamplers in a file of their own
    "micro-odd": {
        "clip": clip(64, (64, 2), (64, 1, 16, 8), 15, 40, 554),
        "prior": prior(
            64,
            net={
                "depth": 2,
                "heads": 3,
                "dim_head": 40,
                "max_text_len": 12,
                "ff_mult": 2,
                "norm_in": True,
                "final_proj": False,
                "num_time_embeds": 2,
                "num_image_embeds": 3,
                "num_text_embeds": 2,
            },
            timesteps=6,
            predict_v=True,
            image_embed_scale=3.0,
        ),
        "decoder": decoder(
            [
                {
                    "dim": 16,
                    "cond_dim": 20,
                    "image_embed_dim": 64,
                    "dim_mults": [1, 2, 2],
                    "num_resnet_blocks": [1, 2, 1],
                    "self_attn": [False, False, True],
                    "attn_heads": 3,
                    "attn_dim_head": 8,
                    "cosine_sim_cross_attn": True,
                    "cosine_sim_self_attn": True,
                    "resnet_groups": 4,
                    "resnet_weight_standardization": True,
                    "scale_skip_connection": True,
                    "pixel_shuffle_upsample": False,
                    "init_cross_embed": False,
                    "init_conv_kernel_size": 5,
                    "final_conv_kernel_size": 3,
                    "num_image_tokens": 3,
                    "num_time_tokens": 1,
                }
            ],
            [16],
            timesteps=200,
            sample_timesteps=3,
            beta_schedule="linear",
            learned_variance=False,
            predict_v=True,
        ),
        "upsampler": decoder(
            [
                unread(64),
                {"dim": 16, "cond_dim": 8, "dim_mults": [1, 2], "sparse_attn": True, "attn_heads": 2, "attn_dim_head": 8},
            ],
            [16, 48],
            timesteps=30,
            predict_x_start=[False, True],
        ),
    },
    # of the releases up to 1.1: as published then, both U-Nets in one file
    "early": {
        "clip": clip(64, (64, 1), (64, 1, 24, 8), 20, 40, 554),
        "prior": prior(
            64,
            net={"depth": 2, "heads": 2, "dim_head": 16, "num_timesteps": 1000, "max_text_len": 20, "normformer": True},
            sample_timesteps=5,
        ),
        "decoder": decoder(
            [
                {**as_published(16, 24, 64, [1, 2], 1, 2, 8), "max_text_len": 24},
                {
                    "dim": 16,
                    "cond_dim": 12,
                    "dim_mults": [1, 2],
                    "num_resnet_blocks": 1,
                    "attn_heads": 1,
                    "memory_efficient": True,
                },
            ],
            [16, 32],
            timesteps=8,
            beta_schedule=["cosine", "cosine"],
            learned_variance=True,
        ),
    },
    # and what else there was
    "early-odd": {
        "clip": clip(64, (64, 2), (64, 1, 16, 8), 15, 40, 554),
        "prior": prior(
            64,
            net={"depth": 2, "heads": 3, "dim_head": 40, "max_text_len": 12, "norm_in": True, "num_text_embeds": 2},
            timesteps=6,
            predict_x_start=False,
        ),
        "decoder": decoder(
            [
                {
                    "dim": 16,
                    "cond_dim": 20,
                    "image_embed_dim": 64,
                    "dim_mults": [1, 2, 2],
                    "num_resnet_blocks": [1, 2, 1],
                    "self_attn": [False, False, True],
                    "sparse_attn": True,
                    "attn_heads": 3,
                    "attn_dim_head": 8,
                    "pixel_shuffle_upsample": False,
                    "init_cross_embed": False,
                }
            ],
            [16],
            timesteps=200,
            sample_timesteps=3,
            ddim_sampling_eta=0.5,
        ),
        "upsampler": decoder(
            [
                unread(64),
                {"dim": 16, "cond_dim": 8, "dim_mults": [1, 2], "sparse_attn": True, "attn_heads": 2, "attn_dim_head": 8},
            ],
            [16, 48],
            timesteps=30,
            sample_timesteps=[3, 5],
            predict_x_start=[False, True],
        ),
    },
    "early-tiny": {
        "clip": clip(64, (64, 3), (64, 2, 56, 14), 24, 60, 574),
        "prior": prior(
            64,
            net={"depth": 3, "heads": 4, "dim_head": 32, "num_timesteps": 1000, "max_text_len": 24, "normformer": True},
            sample_timesteps=11,
        ),
        "decoder": decoder([{**as_published(32, 48, 64, [1, 2, 3], 2, 4, 16), "max_text_len": 30}], [32], timesteps=40),
        "upsampler": decoder(
            [unread(64), {**unread(64), "dim": 16, "dim_mults": [1, 2, 2], "memory_efficient": True}],
            [32, 64],
            timesteps=40,
        ),
    },
    "early-other": {
        "clip": clip(128, (128, 2), (64, 3, 40, 8), 19, 50, 564),
        "prior": prior(
            128,
            net={"depth": 2, "heads": 6, "dim_head": 64, "max_text_len": 25, "num_time_embeds": 2},
            timesteps=40,
            predict_x_start=False,
        ),
        "decoder": decoder(
            [
                {
                    **as_published(24, 40, 128, [1, 2, 2], [2, 1, 2], 3, 24),
                    "memory_efficient": False,
                    "self_attn": [False, True, True],
                    "pixel_shuffle_upsample": False,
                },
                {"dim": 16, "cond_dim": 16, "dim_mults": [1, 1, 2], "self_attn": [False, False, True]},
            ],
            [24, 72],
            timesteps=1000,
            sample_timesteps=[10, 5],
        ),
    },
    "tiny": {
        "clip": clip(64, (64, 3), (64, 2, 56, 14), 24, 60, 574),
        "prior": prior(
            64,
            net={"depth": 3, "heads": 4, "dim_head": 32, "num_timesteps": 1000, "max_text_len": 24, "normformer": True},
            sample_timesteps=11,
        ),
        "decoder": decoder([{**as_published(32, 48, 64, [1, 2, 3], 2, 4, 16), "max_text_len": 30}], [32], timesteps=50),
        "upsampler": decoder(
            [unread(64), {**unread(64), "dim": 16, "dim_mults": [1, 2, 2], "memory_efficient": True}],
            [32, 64],
            timesteps=40,
        ),
    },
    "odd": {
        "clip": clip(128, (128, 2), (64, 3, 40, 8), 19, 50, 564),
        "prior": prior(
            128,
            net={"depth": 2, "heads": 6, "dim_head": 64, "max_text_len": 25, "num_time_embeds": 2},
            timesteps=40,
            predict_x_start=False,
        ),
        "decoder": decoder(
            [
                {
                    **as_published(24, 40, 128, [1, 2, 2], [2, 1, 2], 3, 24),
                    "memory_efficient": False,
                    "self_attn": [False, True, True],
                    "pixel_shuffle_upsample": False,
                    "cosine_sim_cross_attn": True,
                },
                {"dim": 16, "cond_dim": 16, "dim_mults": [1, 1, 2], "self_attn": [False, False, True]},
            ],
            [24, 72],
            timesteps=1000,
            sample_timesteps=[10, 5],
        ),
    },
    "small": {
        "clip": clip(256, (256, 4), (128, 3, 56, 14), 40, 80, 594),
        "prior": prior(
            256,
            net={"depth": 4, "heads": 4, "dim_head": 64, "num_timesteps": 1000, "max_text_len": 40, "normformer": True},
            sample_timesteps=11,
        ),
        "decoder": decoder([as_published(64, 96, 256, [1, 2, 3, 4], 2, 4, 32)], [64], sample_timesteps=10),
        "upsampler": decoder(
            [unread(256), {**as_published(32, 48, 256, [1, 2, 4], 1, 2, 32), "cond_on_text_encodings": False}],
            [64, 128],
            sample_timesteps=[10, 5],
        ),
    },
    "full": {
        "clip": clip(768, (768, 12), (1024, 24, 224, 14), 77, 48894, 49408),
        "prior": prior(
            768,
            net={
                "depth": 12,
                "heads": 12,
                "dim_head": 64,
                "num_timesteps": 1000,
                "max_text_len": 77,
                "normformer": True,
                "rotary_emb": True,
            },
            sample_timesteps=64,
        ),
        "decoder": decoder([as_published(320, 512, 768, [1, 2, 3, 4], 4, 8, 64)], [64], timesteps=1000),
    },
}
