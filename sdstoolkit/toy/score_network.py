"""What the small networks of this package share: their scale, their sense of time, their folder.

    out = F(x_t / sqrt(alpha^2 d^2 + sigma^2), phi(t)) sqrt(a^2 d^2 + b^2),   d = sigma_data

Input and output have unit variance at every level for data of the standard deviation d, whatever
the schedule and the parameterisation out = a x_0 + b eps are (Karras, Aittala, Aila and Laine,
2022, https://arxiv.org/abs/2206.00364, choose their coefficients by this). Time enters as Fourier
features phi = (sin(pi k t), cos(pi k t)), k = 1 ... K.
"""

import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sdstoolkit import noise, prediction
from sdstoolkit._files import write_atomically
from sdstoolkit.condition import Condition
from sdstoolkit.noise import NoiseLevel, Schedule
from sdstoolkit.prediction import Karras, Parameterization
from sdstoolkit.score import ScoreModel
from sdstoolkit.toy.training import save_tensors

__all__ = ["ScoreNetwork", "open_score", "save_score"]

NETWORKS = {"MLPScore": "sdstoolkit.toy.mlp", "UNetScore": "sdstoolkit.toy.unet"}
SCHEDULES = ("VP", "SubVP", "VE", "EDM", "Cosine", "Rectified")
PARAMETERIZATIONS = ("Epsilon", "Sample", "V", "Flow", "Score", "Karras")
INDEX = "model_index.json"


class ScoreNetwork(ScoreModel):
    """A network of this package as a score model; a new one writes `body`.

    Args:
        shape: of one sample.
        schedule: the noise schedule.
        parameterization: what the network is to return.
        sizes: the numbers of the network itself, all at least 1, with `features` among them.
        sigma_data: the data's standard deviation d, above 0; Karras's own, else 1.

    Raises:
        ValueError: a size below 1, or sigma_data not above 0.
    """

    rates: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        schedule: Schedule,
        parameterization: Parameterization,
        sizes: dict[str, Any],
        sigma_data: float | None,
    ) -> None:
        super().__init__()
        if any(min(v if isinstance(v, tuple) else (v,)) < 1 for v in sizes.values()):
            given = ", ".join(f"{name} = {size}" for name, size in sizes.items())
            raise ValueError(f"{given} are not all at least 1.")
        if sigma_data is None:
            sigma_data = 1.0
            if isinstance(parameterization, Karras):
                sigma_data = parameterization.sigma_data
        if not 0 < sigma_data < math.inf:
            raise ValueError(f"sigma_data = {sigma_data} is not a finite number above 0.")
        self.schedule, self.parameterization = schedule, parameterization
        self.shape, self.sizes, self.sigma_data = tuple(shape), sizes, sigma_data
        self.register_buffer("rates", math.pi * torch.arange(1, sizes["features"] + 1))

    @abstractmethod
    def body(self, h: Tensor, phi: Tensor) -> Tensor:
        """F above: [n, *shape] from scaled states [n, *shape] and time features [n, 2 K]."""

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The network's output, as `ScoreModel.output`; ValueError if there is a condition."""
        if condition:
            raise ValueError(f"{type(self).__name__} takes no condition; {condition} was given.")
        d, dtype = self.sigma_data, x_t.dtype
        angle = level.t.flatten()[:, None] * self.rates.double()
        phi = torch.cat([angle.sin(), angle.cos()], 1).to(dtype)
        h = x_t / torch.hypot(d * level.alpha, level.sigma).to(dtype)
        a, b = self.parameterization.coefficients(level)
        return self.body(h, phi) * torch.hypot(a * d, b).to(dtype)


def save_score(folder: Path, model: ScoreNetwork) -> None:
    """Write a network into a folder: score/config.json, score/model.safetensors, and an index.

    Args:
        folder: made if it is not there.
        model: an `MLPScore` or a `UNetScore`.
    """
    name = type(model).__name__
    config = {
        "_class_name": name,
        "sizes": model.sizes,
        "schedule": model.schedule.describe(),
        "parameterization": model.parameterization.describe(),
        "sigma_data": model.sigma_data,
    }
    save_tensors(folder / "score" / "model.safetensors", model.state_dict(), {})
    index = {"_class_name": name, "score": ["sdstoolkit", name]}
    for path, content in ((folder / "score" / "config.json", config), (folder / INDEX, index)):
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def open_score(folder: Path, *, dtype: torch.dtype | None = None) -> ScoreNetwork:
    """A network that `save_score` wrote, frozen and in eval mode.

    Args:
        folder: where.
        dtype: of the network; float32 if None.

    Raises:
        ValueError: the folder holds none, one of another kind, or weights that do not fit.
    """
    path = folder / "score"
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        name = config["_class_name"]
        if name not in NETWORKS:
            raise ValueError(f"its network is a {name}, expected one of {', '.join(NETWORKS)}")
        network = getattr(import_module(NETWORKS[name]), name)
        model = network(
            schedule=_made(noise, SCHEDULES, config["schedule"]),
            parameterization=_made(prediction, PARAMETERIZATIONS, config["parameterization"]),
            sigma_data=config["sigma_data"],
            **config["sizes"],
        )
        weights = load_file(path / "model.safetensors")
        if not all(value.isfinite().all() for value in weights.values()):
            raise ValueError("its weights are not all finite")
        model.load_state_dict(weights)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{str(folder)!r} holds no score network: {said}.") from None
    return model.to(dtype or torch.float32).eval().requires_grad_(False)


def _made(module: Any, known: tuple[str, ...], described: dict[str, Any]) -> Any:
    """The object that describes itself so."""
    numbers = dict(described)
    name = numbers.pop("name")
    if name not in known:
        raise ValueError(f"{name} is not one of {', '.join(known)}")
    return getattr(module, name)(**numbers)
