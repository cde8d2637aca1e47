"""To look at a walk now and then, and to end one at its next network evaluation."""

import time

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.demos._site import Run
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["Looks", "Stopped", "Watching"]

EVERY = 0.25  # seconds between two looks, at least


class Stopped(ValueError):
    """A run was asked to end before there was something to keep."""


class Looks:
    """When to show something: now and then, and so that it takes a third of the time at most."""

    def __init__(self) -> None:
        self._due = 0.0
        self._now = 0.0

    def due(self) -> bool:
        """Whether it is time; if so the look is taken to begin now."""
        self._now = time.perf_counter()
        return self._now >= self._due

    def over(self) -> None:
        """What was shown has been seen."""
        end = time.perf_counter()
        self._due = end + max(EVERY, 2 * (end - self._now))


class Watching(ScoreModel):
    """The same model; `run.halt` ends it at the next evaluation.

    Args:
        model: The model.
        run: Whose walk it is.
    """

    def __init__(self, model: ScoreModel, run: Run) -> None:
        super().__init__()
        self.model, self.run, self.calls = model, run, 0
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
        return self.model.output(x_t, level, condition)

    def describe(self) -> dict[str, object]:
        """The model's description; watching is no part of it."""
        return self.model.describe()

    @property
    def dtype(self) -> torch.dtype | None:
        """The model's."""
        return self.model.dtype
