"""A scheduler's config, read as a noise schedule and a parameterisation.

    alphas_cumprod_k = prod_{j <= k} (1 - beta_j) = alpha_k^2,   sigma_k^2 = 1 - alpha_k^2

A diffusers scheduler mixes three things: the table its network was trained on, what the network
returns, and a sampler. Only the first two are read; steps, spacing, clipping and the sampler's own
state space are the samplers' business. The table is computed in float64 from the numbers in the
config (the schedulers themselves hold a float32 one, about 1e-6 away).

Zero terminal signal-to-noise ratio: `rescale_betas_zero_snr` shifts and scales alpha_k so that the
last is exactly 0 and the first is kept.

References:
    Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2023,
    https://arxiv.org/abs/2305.08891
    Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021,
    https://arxiv.org/abs/2102.09672
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdstoolkit.noise import Discrete
from sdstoolkit.prediction import Epsilon, Parameterization, Sample, V

# Schedulers whose network sees alpha x_0 + sigma eps with alpha^2 + sigma^2 = 1 at an entry of the
# table, whatever space they step in. Consistency (LCM, TCD), flow, EDM and VE are other models.
SCHEDULERS = (
    "DDIMScheduler",
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
PARAMETERIZATIONS: dict[str, type[Parameterization]] = {
    "epsilon": Epsilon,
    "sample": Sample,
    "v_prediction": V,
}
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")


def read_scheduler(config: Mapping[str, Any]) -> tuple[Discrete, Parameterization]:
    """The table the network was trained on and what it returns.

    Args:
        config: the contents of a `scheduler_config.json`. A key it leaves out takes the default of
            its scheduler class, as it would in the pipeline.

    Raises:
        ValueError: the scheduler class, the prediction type or the beta schedule is not one of
            those known here, a number is missing or out of range, or the network is trained on
            something other than a table of betas.
    """
    config = _with_defaults(config)
    name = config["_class_name"]
    prediction = config.get("prediction_type")
    if config.get("use_flow_sigmas") or prediction == "flow_prediction":
        raise ValueError(f"The {name} here is set for flow matching, expected a table of betas.")
    if config.get("timestep_type", "discrete") != "discrete":
        raise ValueError(
            f"The {name} has timestep_type={config['timestep_type']!r}, expected 'discrete'."
        )
    if prediction not in PARAMETERIZATIONS:
        raise ValueError(
            f"The {name} has prediction_type={prediction!r}, expected one of:"
            f" {', '.join(PARAMETERIZATIONS)}."
        )
    return Discrete(alphas_cumprod(config)), PARAMETERIZATIONS[prediction]()


def alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """alphas_cumprod_k = prod_{j <= k} (1 - beta_j), [T] in float64; zero terminal SNR: last 0."""
    betas = _betas(config)
    if not bool(((betas > 0) & (betas <= 1)).all()) or bool((betas[:-1] == 1).any()):
        raise ValueError(
            f"The {config['_class_name']}'s betas go from {betas.min():g} to {betas.max():g},"
            " expected all in (0, 1), or 1 for the last."
        )
    table = torch.cumprod(1 - betas, dim=0)
    if config.get("rescale_betas_zero_snr"):
        root = table.sqrt()
        table = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    return table


def _betas(config: Mapping[str, Any]) -> Tensor:
    """[T] in float64."""
    steps = config.get("num_train_timesteps")
    if not isinstance(steps, int) or steps < 2:
        raise ValueError(
            f"The scheduler has num_train_timesteps={steps!r}, expected a whole number above 1."
        )
    trained = config.get("trained_betas")
    if trained is not None:
        betas = torch.tensor(trained, dtype=torch.float64)
        if betas.shape != (steps,):
            raise ValueError(
                f"The scheduler has {betas.numel()} trained_betas and num_train_timesteps={steps},"
                " expected as many betas as timesteps."
            )
        return betas
    kind, first, last = (config.get(k) for k in ("beta_schedule", "beta_start", "beta_end"))
    if not (isinstance(first, int | float) and isinstance(last, int | float)):
        raise ValueError(
            f"The scheduler has beta_start={first!r} and beta_end={last!r}, expected two numbers."
        )
    if kind == "linear":
        return torch.linspace(first, last, steps, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64).square()
    if kind == "squaredcos_cap_v2":
        k = torch.arange(steps + 1, dtype=torch.float64) / steps
        squared = torch.cos((k + 0.008) / 1.008 * math.pi / 2).square()
        return (1 - squared[1:] / squared[:-1]).clamp(max=0.999)
    if kind == "sigmoid":
        curve = torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid()
        return first + (last - first) * curve
    raise ValueError(
        f"The scheduler has beta_schedule={kind!r}, expected one of: {', '.join(BETA_SCHEDULES)}."
    )


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config completed by the defaults of its class, as the pipeline would do."""
    name = config.get("_class_name")
    if name not in SCHEDULERS:
        raise ValueError(
            f"The scheduler is a {name}, expected one that is trained on a table of betas:"
            f" {', '.join(SCHEDULERS)}."
        )
    import diffusers

    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in parameters:
        raise ValueError(
            f"The config sets rescale_betas_zero_snr, which {name} ignores; expected a scheduler"
            " that reads it, such as DDIMScheduler."
        )
    defaults = {
        key: p.default for key, p in parameters.items() if p.default is not inspect.Parameter.empty
    }
    return {**defaults, **config}
