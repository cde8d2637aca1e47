"""A model that looks up after every evaluation, so that a walk shows its progress and can stop."""

from collections.abc import Callable

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.demos._site import Run
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["Stopped", "Watching"]


class Stopped(ValueError):
    """A run was asked to end before there was something to keep."""


class Watching(ScoreModel):
    """The same model; `run.halt` ends it at the next evaluation.

    Args:
        model: The model.
        run: Whose walk it is.
        tell: Told after every evaluation how many there were.
    """

    def __init__(self, model: ScoreModel, run: Run, tell: Callable[[int], None]) -> None:
        super().__init__()
        self.model, self.run, self.tell, self.calls = model, run, tell, 0
        self.schedule = model.schedule
        self.parameterization = model.parameterization
        self.shape = model.shape

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The model's output.

        Raises:
            Stopped: The run was asked to end.
        """
        if self.run.halt.is_set():
            raise Stopped("stopped before there was a result")
        self.calls += 1
        self.tell(self.calls)
        return self.model.output(x_t, level, condition)

    def describe(self) -> dict[str, object]:
        """The model's description; watching is no part of it."""
        return self.model.describe()

    @property
    def dtype(self) -> torch.dtype | None:
        """The model's."""
        return self.model.dtype
