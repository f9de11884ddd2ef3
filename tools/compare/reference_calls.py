"""Times one network of a diffusers folder in PyTorch, call by call, as `time_calls` times ours.

    yes | head -5 | python reference_calls.py --model DIR --stage decoder --batch 2 --variant eager
    python reference_calls.py --model DIR --stage decoder --batch 32 --train --profile 5

For every line on standard input it makes one call and answers by one line of JSON; the first line
says what loading took, and what is computed once for a picture. The fields are those of
`examples/time_calls.rs`, and so are the shapes, and what is in a call. With `--train` a call is
forward, backward, clipping, AdamW (the fused one) and averaged weights.

A variant is a sum: `eager`, or parts of `channels_last+compile+bf16`. A variant that does not work
here answers {"skipped": reason} and ends. `--profile N` prints PyTorch's profile of N calls, per
operation, in place of all that. `--device cuda` computes there; memory is then the GPU's, as PyTorch reserved it.
"""

import argparse
import copy
import json
import os
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "reference"))

THREADS = os.environ.get("OMP_NUM_THREADS")  # before `karlo_files` sets one

from karlo_files import quiet  # noqa: E402  (first: it sets the environment)

import torch  # noqa: E402
from diffusers import AutoencoderKL, PriorTransformer, UNet2DConditionModel, UNet2DModel, VQModel  # noqa: E402
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel  # noqa: E402
from torch.nn import functional  # noqa: E402

PARTS = ("eager", "channels_last", "compile", "bf16")


def answer(**fields):
    print(json.dumps(fields), flush=True)


def peak_memory(device="cpu"):
    """The most memory that the process held, in bytes; only Linux tells. For a GPU, what PyTorch reserved there."""
    if device != "cpu":
        return torch.cuda.max_memory_reserved()
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def forget_peak():
    """Starts the measure of `peak_memory` anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


class Prior:
    """The prior: text embeddings and a noised image embedding to a clean one."""

    def __init__(self, folder):
        self.prior = PriorTransformer.from_pretrained(folder / "prior")
        self.modules = [self.prior]

    def inputs(self, batch, side, normal):
        config = self.prior.config
        width = config.embedding_dim
        return {
            "x_t": normal(batch, width),
            "proj_embedding": normal(batch, width),
            "encoder_hidden_states": normal(batch, config.num_embeddings, width),
            "attention_mask": torch.ones(batch, config.num_embeddings, dtype=torch.bool),
        }

    def bind(self, inputs):
        return inputs

    def forward(self, inputs, timesteps):
        inputs = dict(inputs)
        return self.prior(inputs.pop("x_t"), timesteps, **inputs).predicted_image_embedding


class Decoder:
    """The decoder: its U-Net, and the projection of conditions, which is made once for a picture."""

    def __init__(self, folder):
        self.text_proj = UnCLIPTextProjModel.from_pretrained(folder / "text_proj")
        self.decoder = UNet2DConditionModel.from_pretrained(folder / "decoder")
        self.tokens = json.loads((folder / "text_encoder" / "config.json").read_text())["max_position_embeddings"]
        self.modules = [self.text_proj, self.decoder]

    def inputs(self, batch, side, normal):
        side = side or self.decoder.config.sample_size
        width = self.text_proj.config.clip_embeddings_dim
        return {
            "x_t": normal(batch, 3, side, side),
            "image_embeddings": normal(batch, width),
            "prompt_embeds": normal(batch, width),
            "text_encoder_hidden_states": normal(batch, self.tokens, width),
        }

    def bind(self, inputs):
        inputs = dict(inputs)
        x_t = inputs.pop("x_t")
        tokens, time_embedding = self.text_proj(**inputs, do_classifier_free_guidance=False)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
        bound = {"encoder_hidden_states": tokens, "class_labels": time_embedding, "attention_mask": mask}
        return {"x_t": x_t, **bound}

    def forward(self, inputs, timesteps):
        inputs = dict(inputs)
        return self.decoder(inputs.pop("x_t"), timesteps, **inputs).sample


class Upsampler:
    """Super-resolution: the network of all steps but the last. That of the last is loaded beside it."""

    def __init__(self, folder):
        self.unet = UNet2DModel.from_pretrained(folder / "super_res_first")
        self.last = UNet2DModel.from_pretrained(folder / "super_res_last")
        for parameter in self.last.parameters():
            parameter.sum()  # files are mapped: what nobody reads would not count as memory
        self.modules = [self.unet]

    def inputs(self, batch, side, normal):
        side = side or self.unet.config.sample_size
        return {"x_t": normal(batch, 3, side, side), "low_res": normal(batch, 3, side, side)}

    def bind(self, inputs):
        return inputs

    def forward(self, inputs, timesteps):
        return self.unet(torch.cat([inputs["x_t"], inputs["low_res"]], 1), timesteps).sample


class KandinskyDecoder:
    """Kandinsky's U-Net, which makes its conditions anew in each call. That of 2.1 reads captions."""

    #: Positions of a caption.
    TOKENS = 77

    def __init__(self, folder):
        self.unet = UNet2DConditionModel.from_pretrained(folder / "decoder" / "unet")
        self.modules = [self.unet]

    def inputs(self, batch, side, normal):
        config = self.unet.config
        side = side or config.sample_size
        x_t = {"x_t": normal(batch, 4, side, side)}
        if config.encoder_hid_dim_type == "image_proj":
            return {**x_t, "image_embeds": normal(batch, config.encoder_hid_dim)}
        width = config.cross_attention_dim
        return {
            **x_t,
            "image_embeds": normal(batch, width),
            "text_embeds": normal(batch, width),
            "encoder_hidden_states": normal(batch, self.TOKENS, config.encoder_hid_dim),
        }

    def bind(self, inputs):
        return inputs

    def forward(self, inputs, timesteps):
        added = dict(inputs)
        x_t, tokens = added.pop("x_t"), added.pop("encoder_hidden_states", None)
        return self.unet(x_t, timesteps, tokens, added_cond_kwargs=added).sample


class KandinskyAutoencoder:
    """MoVQ's decoder: latents to pictures."""

    def __init__(self, folder):
        self.movq = VQModel.from_pretrained(folder / "decoder" / "movq")
        path = folder / "decoder" / "unet" / "config.json"
        self.side = json.loads(path.read_text())["sample_size"]
        self.modules = [self.movq]

    def inputs(self, batch, side, normal):
        side = side or self.side
        return {"x_t": normal(batch, 4, side, side)}

    def bind(self, inputs):
        return inputs

    def forward(self, inputs, timesteps):
        return self.movq.decode(inputs["x_t"], force_not_quantize=True).sample


class StableDecoder:
    """Stable unCLIP's U-Net, which makes its conditions anew in each call."""

    def __init__(self, folder):
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        path = folder / "text_encoder" / "config.json"
        self.length = json.loads(path.read_text())["max_position_embeddings"]
        self.modules = [self.unet]

    def inputs(self, batch, side, normal):
        config = self.unet.config
        side = side or config.sample_size
        return {
            "x_t": normal(batch, 4, side, side),
            "encoder_hidden_states": normal(batch, self.length, config.cross_attention_dim),
            "class_labels": normal(batch, config.projection_class_embeddings_input_dim),
        }

    def bind(self, inputs):
        return inputs

    def forward(self, inputs, timesteps):
        inputs = dict(inputs)
        return self.unet(inputs.pop("x_t"), timesteps, **inputs).sample


class StableAutoencoder:
    """The decoder of Stable Diffusion's autoencoder: latents to pictures."""

    def __init__(self, folder):
        self.vae = AutoencoderKL.from_pretrained(folder / "vae")
        path = folder / "unet" / "config.json"
        self.side = json.loads(path.read_text())["sample_size"]
        self.modules = [self.vae]

    def inputs(self, batch, side, normal):
        side = side or self.side
        return {"x_t": normal(batch, 4, side, side)}

    def bind(self, inputs):
        return inputs

    def forward(self, inputs, timesteps):
        return self.vae.decode(inputs["x_t"] / self.vae.config.scaling_factor).sample


class Glide:
    """GLIDE's U-Nets, in GLIDE's own code, which keeps what its text tower gives."""

    NAME, SIDE = "base", 64

    def __init__(self, folder):
        import glide_reference

        words = glide_reference.encoder(folder / "tokenizer")
        self.unet = glide_reference.load_one(folder, self.NAME, "full", words)
        self.unet.cache_text_emb = True
        self.modules = [self.unet]

    def inputs(self, batch, side, normal):
        side, tokens = side or self.SIDE, torch.zeros(batch, self.unet.text_ctx, dtype=torch.long)
        return {"x_t": normal(batch, 3, side, side), "tokens": tokens, "mask": tokens == 0}

    def bind(self, inputs):
        return inputs

    def forward(self, inputs, timesteps):
        inputs = dict(inputs)
        return self.unet(inputs.pop("x_t"), timesteps, **inputs)


class GlideUpsampler(Glide):
    """Its upsampler."""

    NAME, SIDE = "upsample", 256

    def inputs(self, batch, side, normal):
        inputs = super().inputs(batch, side, normal)
        small = inputs["x_t"].shape[-1] // 4
        return {**inputs, "low_res": normal(batch, 3, small, small)}


class Adm:
    """ADM's U-Nets, in ADM's own code."""

    SUFFIX = "diffusion"

    def __init__(self, folder):
        import adm_reference

        (name,) = [path.stem for path in folder.glob(f"*_{self.SUFFIX}.safetensors")]
        self.side = adm_reference.side(name)
        self.unet = adm_reference.load_one(folder, name, folder.name.removeprefix("adm-"))
        self.modules = [self.unet]

    def inputs(self, batch, side, normal):
        side = side or self.side
        return {"x_t": normal(batch, 3, side, side), "y": torch.zeros(batch, dtype=torch.long)}

    def bind(self, inputs):
        return inputs

    def forward(self, inputs, timesteps):
        inputs = dict(inputs)
        return self.unet(inputs.pop("x_t"), timesteps, **inputs)


class AdmUpsampler(Adm):
    """Its upsampler."""

    SUFFIX = "upsampler"

    def inputs(self, batch, side, normal):
        inputs = super().inputs(batch, side, normal)
        small = inputs["x_t"].shape[-1] // 4
        return {**inputs, "low_res": normal(batch, 3, small, small)}


class LaionPrior:
    """LAION's prior, in DALLE2-pytorch's own code."""

    def __init__(self, folder):
        import laion_reference

        prior = laion_reference.prior_of(laion_reference.SIZES[folder.name.removeprefix("laion-")]["prior"])
        laion_reference.load_stage(prior, folder / "prior")
        self.net = prior.net
        self.modules = [self.net]

    def inputs(self, batch, side, normal):
        width, positions = self.net.dim, self.net.max_text_len
        text = {"text_embed": normal(batch, width), "text_encodings": normal(batch, positions, width)}
        return {"x_t": normal(batch, width), **text}

    def bind(self, inputs):
        return inputs

    def forward(self, inputs, timesteps):
        inputs = dict(inputs)
        return self.net(inputs.pop("x_t"), timesteps.long(), **inputs)


class LaionDecoder:
    """LAION's decoder, likewise."""

    def __init__(self, folder):
        import laion_reference

        decoder = laion_reference.decoder_of(laion_reference.SIZES[folder.name.removeprefix("laion-")]["decoder"])
        laion_reference.load_stage(decoder, folder / "decoder")
        self.side, self.unet = decoder.image_sizes[0], decoder.unets[0]
        self.modules = [self.unet]

    def inputs(self, batch, side, normal):
        side, width = side or self.side, self.unet.text_embed_dim
        text = {"image_embed": normal(batch, width), "text_encodings": normal(batch, 77, width)}
        return {"x_t": normal(batch, 3, side, side), **text}

    def bind(self, inputs):
        return inputs

    def forward(self, inputs, timesteps):
        inputs = dict(inputs)
        return self.unet(inputs.pop("x_t"), timesteps, **inputs)


#: Of Karlo's folders, of Kandinsky's, of Stable unCLIP's, of GLIDE's, of ADM's and of LAION's.
STAGES = {"prior": Prior, "decoder": Decoder, "upsampler.0": Upsampler}
KANDINSKY = {"decoder": KandinskyDecoder, "autoencoder": KandinskyAutoencoder}
STABLE = {"decoder": StableDecoder, "autoencoder": StableAutoencoder}
GLIDE = {"decoder": Glide, "upsampler.0": GlideUpsampler}
ADM = {"decoder": Adm, "upsampler.0": AdmUpsampler}
LAION = {"prior": LaionPrior, "decoder": LaionDecoder}


class Inference:
    """One call of the network, its result on the host."""

    def __init__(self, stage, arguments, parts, normal):
        dtype = torch.bfloat16 if "bf16" in parts else torch.float32
        for module in stage.modules:
            module.to(dtype).requires_grad_(False).eval()
        values = stage.inputs(arguments.batch, arguments.side, normal)
        with torch.inference_mode():
            values = {key: v.to(dtype) if v.is_floating_point() else v for key, v in values.items()}
            values = on(values, arguments.device)
            start = time.perf_counter()
            bound = stage.bind(values)
            wait(arguments.device)
            self.binding = time.perf_counter() - start
            self.inputs = lay_out(bound, parts)
        self.timesteps = torch.full((arguments.batch,), 500.0, device=arguments.device).to(dtype)
        self.forward = torch.compile(stage.forward) if "compile" in parts else stage.forward

    def __call__(self):
        with torch.inference_mode():
            self.forward(self.inputs, self.timesteps).float().cpu().numpy()


class Training:
    """One training step on the mean squared error: what our trainer does in a step, and no more."""

    binding = 0.0

    def __init__(self, stage, arguments, parts, normal):
        self.parameters = [p.requires_grad_(True) for module in stage.modules for p in module.parameters()]
        self.average = [copy.deepcopy(p.data) for p in self.parameters]
        for module in stage.modules:
            module.train()
        self.device = arguments.device
        self.inputs = on(lay_out(stage.inputs(arguments.batch, arguments.side, normal), parts), self.device)
        self.target = on(lay_out({"x_t": normal(*self.inputs["x_t"].shape)}, parts), self.device)["x_t"]
        self.timesteps = torch.arange(arguments.batch, device=self.device) * (1000.0 / arguments.batch)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.01, fused=True)
        self.bf16 = "bf16" in parts

        def loss(inputs, timesteps, target):
            return functional.mse_loss(stage.forward(stage.bind(inputs), timesteps).float(), target)

        self.loss = torch.compile(loss) if "compile" in parts else loss

    def __call__(self):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(self.inputs, self.timesteps, self.target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0).item()
        self.optimizer.step()
        torch._foreach_lerp_(self.average, [p.data for p in self.parameters], 0.005)
        loss.item()


def on(values, device):
    return {key: value.to(device) for key, value in values.items()}


def wait(device):
    """Until a GPU has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def lay_out(inputs, parts):
    """Pictures channels-last, if so asked."""
    if "channels_last" not in parts:
        return inputs
    pictures = {key: v.to(memory_format=torch.channels_last) for key, v in inputs.items() if v.ndim == 4}
    return {**inputs, **pictures}


def make(arguments, parts):
    """The call, and the parameters of its stage."""
    parts_of = {
        "decoder/unet": KANDINSKY,
        "unet": STABLE,
        "base.safetensors": GLIDE,
        "decoder/decoder_config.json": LAION,
    }
    found = [stages for part, stages in parts_of.items() if (arguments.model / part).exists()]
    others = ADM if list(arguments.model.glob("*_diffusion.safetensors")) else STAGES
    stages = found[0] if found else others
    stage = stages[arguments.stage](arguments.model)
    for module in stage.modules:
        module.to(arguments.device)
    if "channels_last" in parts:
        for module in stage.modules:
            module.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(arguments.seed)
    kind = Training if arguments.train else Inference
    call = kind(stage, arguments, parts, lambda *shape: torch.randn(shape, generator=generator))
    return call, sum(p.numel() for module in stage.modules for p in module.parameters())


def profile(call, count, device):
    """PyTorch's own table of `count` calls."""
    call(), call()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as result:
        for _ in range(count):
            call()
    for by_shape in (False, True):
        averages = result.key_averages(group_by_input_shape=by_shape)
        print(averages.table(sort_by=f"self_{device}_time_total", row_limit=40, max_name_column_width=44, max_shapes_column_width=76))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder in the diffusers layout")
    parser.add_argument("--stage", choices=STAGES | KANDINSKY, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--side", type=int, help="of the pictures, if not the model's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--variant", default="eager", help=f"of {', '.join(PARTS)}, joined by +")
    parser.add_argument("--train", action="store_true", help="a call is a training step")
    parser.add_argument("--profile", type=int, metavar="N", help="print the profile of N calls")
    arguments = parser.parse_args()
    parts = arguments.variant.split("+")
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"unknown parts of a variant: {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")

    quiet()
    torch.set_num_threads(int(THREADS or torch.get_num_threads()))
    torch.set_grad_enabled(True)
    start = time.perf_counter()
    call, parameters = make(arguments, parts)
    loading = time.perf_counter() - start - call.binding
    answer(loading=loading, binding=call.binding, parameters=parameters, peak_memory=peak_memory(arguments.device))
    if arguments.profile:
        return profile(call, arguments.profile, arguments.device)
    for number, _ in enumerate(sys.stdin):
        if number == 0:
            forget_peak()
        start = time.perf_counter()
        try:
            call()
        except Exception as error:  # what a compiler says when it is missing is not known beforehand
            if "compile" not in parts:
                raise
            return answer(skipped=str(error).strip().splitlines()[0])
        answer(seconds=time.perf_counter() - start, peak_memory=peak_memory(arguments.device))


if __name__ == "__main__":
    main()
