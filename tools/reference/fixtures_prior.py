"""Fixtures of unclip-prior: the diffusion prior, and the autoregressive prior."""

import math

import torch
from diffusers import PriorTransformer
from torch import nn
from torch.nn import functional

from common import Fixture

SCRIPT = "fixtures_prior.py"
CRATE = "unclip-prior"


def files():
    """Paths and contents of all fixtures of the crate."""
    yield prior().file()
    yield ar_prior().file()


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


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.ModuleDict({name: nn.Linear(width, width) for name in ATTENTION})
        self.norm2 = nn.LayerNorm(width)
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x, seen):
        batch, seq, width = x.shape
        normed = self.norm1(x)
        q, k, v = (
            self.attn[name](normed).reshape(batch, seq, self.heads, -1).transpose(1, 2)
            for name in ATTENTION[:3]
        )
        h = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.attn["to_out"](h.transpose(1, 2).reshape(batch, seq, width))
        return x + self.c_proj(functional.gelu(self.c_fc(self.norm2(x))))


ATTENTION = ("to_q", "to_k", "to_v", "to_out")


class ArPrior(nn.Module):
    """The autoregressive prior of the paper (section 2.2), of which no code was ever published."""

    def __init__(self, d_embedding, d_text, context, codes, buckets, similarities, **transformer):
        super().__init__()
        width = transformer["width"]
        self.codes, self.buckets, self.similarities = codes, buckets, similarities
        self.codebook = nn.Module()
        self.codebook.clip = nn.Module()
        for owner, name, shape in [
            (self.codebook.clip, "mean", (1, d_embedding)),
            (self.codebook.clip, "std", (1, d_embedding)),
            (self.codebook.clip, "basis", (d_embedding, d_embedding)),
            (self.codebook, "low", (1, codes)),
            (self.codebook, "high", (1, codes)),
            (self.codebook, "edges", (1, similarities - 1)),
        ]:
            owner.register_buffer(name, torch.zeros(shape))
        self.positional_embedding = nn.Parameter(torch.zeros(1, context + 1 + codes, width))
        self.similarity_embedding = nn.Parameter(torch.zeros(similarities + 1, width))
        self.code_embedding = nn.Parameter(torch.zeros(buckets, width))
        self.text_tokens_proj = nn.Linear(d_text, width)
        self.text_embedding_proj = nn.Linear(d_embedding, width)
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(
            Block(width, transformer["heads"], transformer["hidden"])
            for _ in range(transformer["layers"])
        )
        self.norm_out = nn.LayerNorm(width)
        self.proj_to_buckets = nn.Linear(width, buckets)

    def encode(self, image):
        """Codes of embeddings."""
        book = self.codebook
        white = (image - book.clip.mean) @ book.clip.basis / book.clip.std
        share = (white[:, : self.codes] - book.low) / (book.high - book.low)
        return (share * self.buckets).floor().clamp(0, self.buckets - 1).long()

    def decode(self, codes):
        """The embeddings in the middle of the buckets, without the components that have none."""
        book = self.codebook
        known = (codes + 0.5) / self.buckets * (book.high - book.low) + book.low
        white = torch.zeros(len(codes), book.clip.mean.shape[1])
        white[:, : self.codes] = known
        return (white * book.clip.std) @ book.clip.basis.T + book.clip.mean

    def similarity(self, image, text):
        """Buckets of cosines."""
        cosine = functional.cosine_similarity(image, text)
        return (cosine[:, None] >= self.codebook.edges).sum(1)

    def forward(self, tokens, mask, text, similarity, codes):
        """Log-odds of the buckets of the codes, one more than are given."""
        prefix = [self.text_tokens_proj(tokens), self.text_embedding_proj(text)[:, None]]
        prefix += [self.similarity_embedding[similarity][:, None], self.code_embedding[codes]]
        x = torch.cat(prefix, 1)
        seq = x.shape[1]
        x = x + self.positional_embedding[:, :seq]
        real = functional.pad(mask.bool(), (0, seq - mask.shape[1]), value=True)
        seen = torch.ones(seq, seq, dtype=torch.bool).tril() & real[:, None, :]
        for layer in self.transformer.layers:
            x = layer(x, seen[:, None])
        x = self.proj_to_buckets(self.norm_out(x))
        return x[:, mask.shape[1] + 1 :].log_softmax(2)


def ar_prior():
    """Losses of a batch, and what guided and plain sampling write from given noise."""
    config = {
        "d_embedding": 24,
        "d_text": 20,
        "context": 12,
        "codes": 6,
        "buckets": 8,
        "similarities": 4,
        "width": 32,
        "heads": 4,
        "hidden": 64,
        "layers": 2,
    }
    fixture = Fixture(SCRIPT, CRATE, "ar_prior", config)
    module = ArPrior(**config)
    book = module.codebook
    half = lambda x: x.to(torch.float16).to(torch.float32)
    book.clip.mean.copy_(half(0.3 * fixture.randn(1, 24)))
    book.clip.std.copy_(half(1.0 + 0.2 * fixture.randn(1, 24)))
    book.clip.basis.copy_(half(torch.linalg.qr(fixture.randn(24, 24))[0]))
    book.low.copy_(half(-1.5 + 0.2 * fixture.randn(1, 6)))
    book.high.copy_(half(1.5 + 0.2 * fixture.randn(1, 6)))
    book.edges.copy_(torch.tensor([[-0.25, 0.0, 0.25]]))
    module = fixture.weights(module)
    lengths = torch.tensor([12, 5, 2])
    mask = fixture.input("attention_mask", (torch.arange(12)[None, :] < lengths[:, None]).long())
    tokens = fixture.input("tokens", fixture.randn(3, 12, 20))
    text = fixture.input("text", fixture.randn(3, 24))
    image = fixture.input("image", fixture.randn(3, 24) + 0.5 * text)
    codes = fixture.output("codes", module.encode(image))
    fixture.output("decoded", module.decode(codes))
    similarity = fixture.output("similarity", module.similarity(image, text))
    unknown = fixture.input("unknown", torch.tensor([0, 1, 0]))
    told = torch.where(unknown == 1, 4, similarity)
    odds = module(tokens, mask, text, told, codes[:, :-1])
    fixture.output("loss", -odds.gather(2, codes[:, :, None])[:, :, 0])
    noise = fixture.input("noise", fixture.randn(7, 3, 1))
    null = [x[2:].expand(3, *x.shape[1:]) for x in (tokens, mask, text)]
    for name, scale in [("plain", None), ("guided", 2.5)]:
        drawn = write(module, (tokens, mask, text), null, scale, noise)
        fixture.output(name, module.decode(drawn))
    return fixture


def write(module, given, null, scale, noise):
    """Codes, each drawn from its odds by the distribution function of a normal number."""
    uniform = 0.5 * (1.0 + torch.erf(noise[:, :, 0] / math.sqrt(2.0)))
    half = module.similarities // 2
    similarity = half + (uniform[0] * half).floor().clamp(max=half - 1).long()
    codes = torch.zeros(3, 0, dtype=torch.long)
    for k in range(module.codes):
        odds = module(*given, similarity, codes)[:, -1]
        if scale is not None:
            other = module(*null, torch.full((3,), module.similarities), codes)[:, -1]
            odds = (other + scale * (odds - other)).log_softmax(1)
        sums = odds.exp().cumsum(1)
        code = (sums <= uniform[k + 1][:, None]).sum(1).clamp(max=module.buckets - 1)
        codes = torch.cat([codes, code[:, None]], 1)
    return codes
