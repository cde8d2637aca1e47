"""What guided models share: they wrap a model, take its place, and say so in its description."""

import math

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["Guided", "finite", "inner", "move"]


class Guided(ScoreModel):
    """A model that asks another one and mixes its answers; a new one writes `output`.

    Attributes:
        model: the model that is guided.
        numbers: what `describe` tells about the guidance besides its name.

    Args:
        model: the model to guide.
        numbers: of the guidance, for a manifest.
    """

    def __init__(self, model: ScoreModel, **numbers: object) -> None:
        super().__init__()
        self.model = model
        self.schedule = model.schedule
        self.parameterization = model.parameterization
        self.shape = model.shape
        self.numbers = numbers

    def pair(
        self, x_t: Tensor, level: NoiseLevel, condition: Condition | None, null: Condition | None
    ) -> tuple[Tensor, Tensor]:
        """The outputs under a condition and under the null condition, in one batched call."""
        told, untold = self.model.outputs(x_t, level, (condition, null))
        return told, untold

    def describe(self) -> dict[str, object]:
        """The model's description, and a line for the guidance."""
        inside = self.model.describe()
        line = {"name": type(self).__name__} | self.numbers
        if "guidance" in inside:
            line["of"] = inside["guidance"]
        return inside | {"guidance": line}

    @property
    def dtype(self) -> torch.dtype | None:
        """None: the state reaches the model that is guided uncast."""
        return None


def finite(**numbers: float) -> None:
    """Refuse numbers that are not finite.

    Raises:
        ValueError: the name and the number.
    """
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}, expected a finite number; 1 is as it was.")


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each row, [n, 1, ..., 1]."""
    return (a * b).flatten(1).sum(1).reshape(-1, *(1,) * (a.ndim - 1))


def move(model: ScoreModel, output: Tensor, level: NoiseLevel, change: Tensor) -> Tensor:
    """The output whose x_0 is `change` away from that of another output, at the same x_t.

    x_0 = (b x_t - sigma output) / det, so that output' = output - det / sigma change.

    Args:
        model: whose parameterisation it is.
        output: of the network.
        level: the noise level, with noise.
        change: of x_0.
    """
    a, b = model.parameterization.coefficients(level)
    return output - (level.alpha * b / level.sigma - a) * change
