"""Guidance by a null condition that is not linear in what the network returns."""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel


class Rescaled(ScoreModel):
    """A guided model whose rule mixes the outputs under two conditions; a rule writes `rule`.

    Network evaluations a row: 2, in one batched call.

    Args:
        model: the model to guide.
        null: the condition to guide away from, of one row, or of as many as the batch.
        scale: any finite number.

    Raises:
        ValueError: `scale` is not finite.
    """

    def __init__(self, model: ScoreModel, null: Condition, *, scale: float) -> None:
        super().__init__()
        if not math.isfinite(scale):
            raise ValueError(f"scale is {scale}, expected a finite number.")
        self.model, self.null, self.scale = model, null, float(scale)
        self.schedule, self.parameterization = model.schedule, model.parameterization
        self.shape = model.shape

    @abstractmethod
    def rule(self, told: Tensor, null: Tensor) -> Tensor:
        """The guided output of the outputs under the condition and under the null one."""

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The guided output of the network."""
        return self.rule(*self.model.outputs(x_t, level, [condition, self.null]))

    def describe(self) -> dict[str, object]:
        """The model's description, and a line for the guidance."""
        line = {"name": type(self).__name__, "scale": self.scale}
        return self.model.describe() | {"guidance": line}

    @property
    def dtype(self) -> torch.dtype | None:
        """None: the state reaches the model that is guided uncast."""
        return None
