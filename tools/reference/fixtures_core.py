"""Fixtures of unclip-core: resizing, schedules, samplers, losses."""

import math
from unittest import mock

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UnCLIPScheduler
from diffusers.schedulers import scheduling_unclip

from common import Fixture

SCRIPT = "fixtures_core.py"
CRATE = "unclip-core"
TRAIN_STEPS = 1000


def files():
    """Paths and contents of all fixtures of the crate."""
    for build in (resize, schedules, ddim, losses):
        yield build().file()


def resize():
    """Antialiased bicubic resizing. Output names are height x width."""
    sizes = [(32, 24), (16, 12), (5, 4), (7, 9)]
    config = {"mode": "bicubic", "align_corners": False, "antialias": True, "sizes": sizes}
    fixture = Fixture(SCRIPT, CRATE, "resize", config)
    image = fixture.input("image", fixture.randn(2, 3, 8, 6))
    for height, width in sizes:
        resized = F.interpolate(
            image, size=(height, width), mode="bicubic", align_corners=False, antialias=True
        )
        fixture.output(f"{height}x{width}", resized)
    return fixture


def cosine_betas():
    """Squared-cosine betas in Python floats, capped at 0.999."""

    def alpha_bar(time):
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    return [
        min(1 - alpha_bar((i + 1) / TRAIN_STEPS) / alpha_bar(i / TRAIN_STEPS), 0.999)
        for i in range(TRAIN_STEPS)
    ]


def linear_betas():
    """Betas that rise linearly from 1e-4 to 0.02, in Python floats."""
    first, last = 1e-4, 0.02
    return [first + (last - first) * i / (TRAIN_STEPS - 1) for i in range(TRAIN_STEPS)]


def cumulative_alphas(betas):
    """The running product of 1 - beta."""
    products = []
    product = 1.0
    for beta in betas:
        product *= 1 - beta
        products.append(product)
    return products


def schedules():
    """Noise schedules in f64 and single steps of the ancestral sampler."""
    steps = 25
    step_indices = [0, 1, 6, 12, 22, 23, 24]
    samplers = [
        {"prediction_type": "sample", "variance_type": "fixed_small_log", "clip_sample_range": 5.0},
        {"prediction_type": "epsilon", "variance_type": "fixed_small_log", "clip_sample_range": 1.0},
        {"prediction_type": "sample", "variance_type": "learned_range", "clip_sample_range": 5.0},
        {"prediction_type": "epsilon", "variance_type": "learned_range", "clip_sample_range": 1.0},
    ]
    timesteps = None
    cases = []
    for sampler in samplers:
        scheduler = UnCLIPScheduler(num_train_timesteps=TRAIN_STEPS, clip_sample=True, **sampler)
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        for index in step_indices:
            last = index + 1 == steps
            cases.append(
                {**sampler, "t": timesteps[index], "prev_t": -1 if last else timesteps[index + 1]}
            )
    config = {
        "num_train_timesteps": TRAIN_STEPS,
        "num_inference_steps": steps,
        "clip_sample": True,
        "linear": {"beta_start": 1e-4, "beta_end": 0.02},
        "cases": cases,
    }

    fixture = Fixture(SCRIPT, CRATE, "schedules", config)
    for name, betas in (("cosine", cosine_betas()), ("linear", linear_betas())):
        products = cumulative_alphas(betas)
        fixture.output(f"alpha_bar_{name}", torch.tensor(products, dtype=torch.float64))
    fixture.output("alpha_bar_cosine_f32", UnCLIPScheduler().alphas_cumprod)
    fixture.output("timesteps", torch.tensor(timesteps))

    for number, case in enumerate(cases):
        scheduler = UnCLIPScheduler(
            num_train_timesteps=TRAIN_STEPS,
            prediction_type=case["prediction_type"],
            variance_type=case["variance_type"],
            clip_sample=True,
            clip_sample_range=case["clip_sample_range"],
        )
        channels = 6 if case["variance_type"] == "learned_range" else 3
        # Wide enough that some values of a predicted sample exceed the clipping range.
        scale = 2.5 if case["prediction_type"] == "sample" else 1.0
        model_output = fixture.randn(2, channels, 2, 3)
        model_output[:, :3] *= scale
        fixture.input(f"case_{number}.model_output", model_output)
        sample = fixture.input(f"case_{number}.sample", fixture.randn(2, 3, 2, 3))
        noise = fixture.input(f"case_{number}.noise", fixture.randn(2, 3, 2, 3))
        with mock.patch.object(scheduling_unclip, "randn_tensor", lambda *_, **__: noise):
            step = scheduler.step(
                model_output,
                case["t"],
                sample,
                prev_timestep=None if case["prev_t"] < 0 else case["prev_t"],
            )
        fixture.output(f"case_{number}.prev_sample", step.prev_sample)
        fixture.output(f"case_{number}.pred_original_sample", step.pred_original_sample)
    return fixture


def ddim():
    """Single DDIM steps: two spacings, two predictions, eta 0 and 1."""
    steps = 10
    timesteps = {}
    cases = []
    for spacing in ("trailing", "leading"):
        scheduler = ddim_scheduler(spacing, "epsilon")
        scheduler.set_timesteps(steps)
        timesteps[spacing] = scheduler.timesteps.tolist()
        for prediction in ("epsilon", "v_prediction"):
            for eta in (0.0, 1.0):
                for index in (0, 1, 5, steps - 1):
                    t = timesteps[spacing][index]
                    cases.append(
                        {
                            "timestep_spacing": spacing,
                            "prediction_type": prediction,
                            "eta": eta,
                            "t": t,
                            "prev_t": max(t - TRAIN_STEPS // steps, -1),
                        }
                    )
    config = {
        "num_train_timesteps": TRAIN_STEPS,
        "num_inference_steps": steps,
        "beta_schedule": "squaredcos_cap_v2",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "timesteps": timesteps,
        "cases": cases,
    }

    fixture = Fixture(SCRIPT, CRATE, "ddim", config)
    for spacing, values in timesteps.items():
        fixture.output(f"timesteps_{spacing}", torch.tensor(values))
    for number, case in enumerate(cases):
        scheduler = ddim_scheduler(case["timestep_spacing"], case["prediction_type"])
        scheduler.set_timesteps(steps)
        model_output = fixture.input(f"case_{number}.model_output", fixture.randn(2, 3, 2, 3))
        sample = fixture.input(f"case_{number}.sample", fixture.randn(2, 3, 2, 3))
        noise = fixture.input(f"case_{number}.noise", fixture.randn(2, 3, 2, 3))
        step = scheduler.step(
            model_output, case["t"], sample, eta=case["eta"], variance_noise=noise
        )
        fixture.output(f"case_{number}.prev_sample", step.prev_sample)
        fixture.output(f"case_{number}.pred_original_sample", step.pred_original_sample)
    return fixture


def ddim_scheduler(spacing, prediction):
    """The DDIM scheduler of the `ddim` cases."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_schedule="squaredcos_cap_v2",
        timestep_spacing=spacing,
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=True,
    )


class HybridLoss:
    """The learned-range hybrid loss of Improved DDPM on the cosine schedule, in f64.

    ``loss = mse(epsilon) + vlb * T / 1000``: the bound is taken in bits per dimension with the
    epsilon part of the model output detached, so that it trains the variance alone.
    """

    def __init__(self):
        betas = cosine_betas()
        alpha_bars = cumulative_alphas(betas)
        previous = [1.0] + alpha_bars[:-1]
        variances = [
            beta * (1 - before) / (1 - now) for beta, before, now in zip(betas, previous, alpha_bars)
        ]
        variances[0] = variances[1]  # the logarithm at t = 0 is clipped to that of t = 1

        def table(values):
            return torch.tensor(values, dtype=torch.float64)[:, None, None, None]

        alpha_bars, previous, betas = table(alpha_bars), table(previous), table(betas)
        self.alpha_bar = alpha_bars
        self.max_log = betas.log()
        self.min_log = table(variances).log()
        self.coef_start = betas * previous.sqrt() / (1 - alpha_bars)
        self.coef_noisy = (1 - betas).sqrt() * (1 - previous) / (1 - alpha_bars)

    def add_noise(self, start, noise, t):
        """A draw from q(x_t | x_0)."""
        alpha_bar = self.alpha_bar[t]
        return alpha_bar.sqrt() * start + (1 - alpha_bar).sqrt() * noise

    def terms(self, model_output, start, noisy, noise, t, exact_cdf=False):
        """Per-item mean squared error and variational term."""
        epsilon, fraction = model_output.chunk(2, dim=1)
        mse = ((noise - epsilon) ** 2).mean(dim=(1, 2, 3))

        alpha_bar = self.alpha_bar[t]
        frozen = epsilon.detach()
        predicted_start = (noisy - (1 - alpha_bar).sqrt() * frozen) / alpha_bar.sqrt()
        model_mean = self.coef_start[t] * predicted_start + self.coef_noisy[t] * noisy
        fraction = (fraction + 1) / 2
        model_log = fraction * self.max_log[t] + (1 - fraction) * self.min_log[t]

        true_mean = self.coef_start[t] * start + self.coef_noisy[t] * noisy
        true_log = self.min_log[t]
        kl = 0.5 * (
            -1
            + model_log
            - true_log
            + (true_log - model_log).exp()
            + (true_mean - model_mean) ** 2 * (-model_log).exp()
        )
        kl = kl.mean(dim=(1, 2, 3)) / math.log(2)
        nll = -discretised_log_likelihood(start, model_mean, 0.5 * model_log, exact_cdf)
        nll = nll.mean(dim=(1, 2, 3)) / math.log(2)
        return mse, torch.where(t == 0, nll, kl) * (TRAIN_STEPS / 1000)


def discretised_log_likelihood(value, mean, log_scale, exact_cdf):
    """Log-likelihood of 8-bit levels in [-1, 1] under a Gaussian integrated over each level."""

    def cdf(x):
        if exact_cdf:
            return 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    inverse = (-log_scale).exp()
    above = cdf(inverse * (value - mean + 1 / 255))
    below = cdf(inverse * (value - mean - 1 / 255))
    middle = (above - below).clamp(min=1e-12).log()
    lowest = above.clamp(min=1e-12).log()
    highest = (1 - below).clamp(min=1e-12).log()
    return torch.where(value < -0.999, lowest, torch.where(value > 0.999, highest, middle))


def losses():
    """Both terms of the hybrid loss and the gradient of their mean over the batch."""
    timesteps = [0, 1, 500, 999]
    config = {
        "num_train_timesteps": TRAIN_STEPS,
        "beta_schedule": "squaredcos_cap_v2",
        "loss": "mean over items of mse + vb",
        "vb": "bits per dimension, t = 0 discretised gaussian with the tanh approximation of the cdf",
        "vb_erf": "the same with the exact cdf",
        "timesteps": timesteps,
    }
    fixture = Fixture(SCRIPT, CRATE, "losses", config)
    loss = HybridLoss()
    t = fixture.input("timesteps", torch.tensor(timesteps))
    levels = fixture.rng.integers(0, 256, size=(4, 3, 3, 5))
    levels[:, 0, 0, 0], levels[:, 1, 1, 1] = 0, 255  # both open ends of the discretised range
    start = fixture.input("x_start", torch.from_numpy(levels / 127.5 - 1).to(torch.float32))
    noise = fixture.input("noise", fixture.randn(4, 3, 3, 5))
    noisy = loss.add_noise(start.double(), noise.double(), t)
    noisy = fixture.input("x_t", noisy.to(torch.float32))
    # An imperfect model, with variance fractions inside and outside [-1, 1]. The error of each item
    # is such that its variational term is neither negligible nor huge.
    error = torch.tensor([0.3, 0.3, 1.0, 0.1])[:, None, None, None]
    epsilon = noise + error * fixture.randn(4, 3, 3, 5)
    fraction = 0.7 * fixture.randn(4, 3, 3, 5)
    model_output = fixture.input("model_output", torch.cat([epsilon, fraction], dim=1))

    arguments = [tensor.double() for tensor in (start, noisy, noise)]
    with torch.enable_grad():
        leaf = model_output.double().requires_grad_()
        mse, vb = loss.terms(leaf, *arguments, t)
        total = (mse + vb).mean()
        total.backward()
    _, vb_erf = loss.terms(model_output.double(), *arguments, t, exact_cdf=True)
    results = {"mse": mse, "vb": vb, "vb_erf": vb_erf, "loss": total, "grad_model_output": leaf.grad}
    for name, value in results.items():
        fixture.output(name, value.detach().to(torch.float32))
    return fixture
