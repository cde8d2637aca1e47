"""A scheduler's config, read as what its network was trained on.

    alphas_cumprod_k = prod_{j <= k} (1 - beta_j) = alpha_k^2,   sigma_k^2 = 1 - alpha_k^2

A diffusers scheduler mixes three things: the table its network was trained on, what the network
returns, and a sampler. Only the first two are read; steps, spacing, clipping and the sampler's own
state space are the samplers' business. The table is computed in float64 from the numbers in the
config (the schedulers themselves hold a float32 one, about 1e-6 away).

Which of them it is, is decided in this order: a flow (the class, `use_flow_sigmas` or the
prediction type say so, whatever table of betas stands beside), EDM, the score SDE, a table.

    flow       alpha = 1 - t, sigma = t; the network is called with 1000 t
    EDM        alpha = 1, sigma by the config's law; called with log(sigma) / 4 and c_in x_t
    score SDE  alpha = 1, sigma geometric; called with sigma
    table      called with k

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

from sdstoolkit.adapters._network import Linear, LogSigma, Sigma, Trained
from sdstoolkit.noise import EDM, VE, Discrete, NoiseLevel, Rectified
from sdstoolkit.prediction import Epsilon, Flow, Karras, Parameterization, Sample, Score, V

# Schedulers whose network sees alpha x_0 + sigma eps with alpha^2 + sigma^2 = 1 at an entry of the
# table, whatever space they step in.
TABLES = (
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
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
EDMS = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")
SCORE_SDES = ("ScoreSdeVeScheduler",)
SCHEDULERS = (*TABLES, *FLOWS, *EDMS, *SCORE_SDES)
PARAMETERIZATIONS: dict[str, type[Parameterization]] = {
    "epsilon": Epsilon,
    "sample": Sample,
    "v_prediction": V,
}
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")


class KarrasV(Karras):
    """EDM's F with the other sign, which CosXL and its kin call a v-prediction.

    output = sigma_data / h eps - s / (sigma_data h) x_0, as in `Karras`.
    """

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(a, b), both with the sign turned."""
        a, b = super().coefficients(level)
        return -a, -b


def read_scheduler(config: Mapping[str, Any]) -> Trained:
    """What a network was trained on: its schedule, what it returns and what it is handed.

    Args:
        config: the contents of a `scheduler_config.json`. A key it leaves out takes the default of
            its scheduler class, as it would in the pipeline.

    Raises:
        ValueError: the scheduler class, the prediction type or the beta schedule is not one of
            those known here, or a number is missing or out of range.
    """
    config = _with_defaults(config)
    name = config["_class_name"]
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if name in FLOWS or flow:
        return _flow(config)
    if name in EDMS:
        return _edm(config)
    if name in SCORE_SDES:
        schedule = VE(sigma_min=config["sigma_min"], sigma_max=config["sigma_max"])
        return Trained(schedule, Score(), Sigma())
    if config.get("timestep_type", "discrete") != "discrete":
        raise ValueError(
            f"The {name} has timestep_type={config['timestep_type']!r}, expected 'discrete'."
        )
    parameterization = PARAMETERIZATIONS[_prediction(config, tuple(PARAMETERIZATIONS))]()
    table = Discrete(alphas_cumprod(config))
    return Trained(table, parameterization, Linear(table.steps - 1))


def _flow(config: Mapping[str, Any]) -> Trained:
    name = config["_class_name"]
    if name not in FLOWS:
        _prediction(config, ("flow_prediction",))
    if config.get("invert_sigmas"):
        raise ValueError(f"The {name} has invert_sigmas=True, expected False.")
    shift = config.get("shift") if name in FLOWS else config.get("flow_shift")
    if not isinstance(shift, int | float) or not shift > 0:
        raise ValueError(f"The {name} has shift={shift!r}, expected a number above 0.")
    moves = config.get("use_dynamic_shifting")
    steps = _steps(config)
    return Trained(Rectified(), Flow(), Linear(steps), None if moves else float(shift))


def _edm(config: Mapping[str, Any]) -> Trained:
    name, low, high, data = (
        config[key] for key in ("_class_name", "sigma_min", "sigma_max", "sigma_data")
    )
    laws = {
        "karras": lambda: EDM(sigma_min=low, sigma_max=high, rho=config["rho"]),
        "exponential": lambda: VE(sigma_min=low, sigma_max=high),
    }
    law = config.get("sigma_schedule")
    if law not in laws:
        raise ValueError(
            f"The {name} has sigma_schedule={law!r}, expected one of: {', '.join(laws)}."
        )
    kinds: dict[str, type[Karras]] = {"epsilon": Karras, "v_prediction": KarrasV}
    kind = kinds[_prediction(config, tuple(kinds))]
    return Trained(laws[law](), kind(sigma_data=data), LogSigma(data))


def _prediction(config: Mapping[str, Any], known: tuple[str, ...]) -> str:
    prediction = config.get("prediction_type")
    if prediction not in known:
        raise ValueError(
            f"The {config['_class_name']} has prediction_type={prediction!r}, expected one of:"
            f" {', '.join(known)}."
        )
    return str(prediction)


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
    steps = _steps(config)
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


def _steps(config: Mapping[str, Any]) -> int:
    steps = config.get("num_train_timesteps")
    if not isinstance(steps, int) or steps < 2:
        raise ValueError(
            f"The scheduler has num_train_timesteps={steps!r}, expected a whole number above 1."
        )
    return steps


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config completed by the defaults of its class, as the pipeline would do."""
    name = config.get("_class_name")
    if name not in SCHEDULERS:
        raise ValueError(f"The scheduler is a {name}, expected one of: {', '.join(SCHEDULERS)}.")
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
