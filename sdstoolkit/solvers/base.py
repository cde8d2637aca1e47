"""What every solver shares: the field of the flow, the nodes of a grid, what a walk yields.

The probability flow of a score model is one ordinary differential equation for all schedules,

    d(x / alpha) / d(sigma / alpha) = eps_hat(x, t)

(Song et al., 2021, https://arxiv.org/abs/2011.13456). A solver walks along the nodes that it is
given: falling times sample, rising times invert, and there is no inverse solver. It knows nothing
of prompts, guidance or networks.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.grids import ClippedLogSNR, Grid
from sdstoolkit.noise import NoiseLevel, Schedule
from sdstoolkit.prediction import Prediction
from sdstoolkit.score import ScoreModel

__all__ = ["Field", "Mark", "Node", "Solver"]


class Node(NamedTuple):
    """A place on a grid: the time and the kernel's alpha and sigma there, in float64."""

    t: float
    alpha: float
    sigma: float

    @property
    def log_ratio(self) -> float:
        """lambda = log(alpha / sigma), half the log-SNR; infinite where one of them is zero."""
        if self.alpha == 0 or self.sigma == 0:
            return math.inf if self.alpha else -math.inf
        return math.log(self.alpha) - math.log(self.sigma)


class Mark(NamedTuple):
    """What a walk yields at a node.

    Attributes:
        x: the state x_t, [n, *shape].
        memory: what the solver must be given besides x to go on, or back, as if it had not
            stopped: a companion state, in the solver's own units. Empty for most solvers.
        x_0: the posterior mean that the step came from, for previews; None where there is none.
    """

    x: Tensor
    memory: tuple[Tensor, ...] = ()
    x_0: Tensor | None = None


class Field:
    """A score model under one condition, as a function of state and time.

    Args:
        model: the score model.
        condition: 1 row, or as many as the states have; None for an unconditional model.
        grad: record gradients.
    """

    def __init__(
        self, model: ScoreModel, condition: Condition | None = None, *, grad: bool = False
    ) -> None:
        self.model = model
        self.condition = condition
        self.grad = grad
        self._calls = [0]  # shared with the fields of some rows

    @property
    def calls(self) -> int:
        """How many times the model was called, each time with the rows that it was given."""
        return self._calls[0]

    @property
    def schedule(self) -> Schedule:
        """The model's noise schedule."""
        return self.model.schedule

    def level(self, t: float | Tensor, x: Tensor) -> NoiseLevel:
        """The noise level of the rows of x at t, one time or a time a row."""
        return self.model.level(t, x)

    def __call__(self, x: Tensor, t: float | Tensor | NoiseLevel) -> Prediction:
        """What the model knows about x_t = x. One network evaluation a row."""
        self._calls[0] += 1
        with torch.set_grad_enabled(self.grad):
            return self.model(x, t, self.condition)

    def rows(self, index: Tensor) -> "Field":
        """The field of some of the rows, for states that hold only those.

        Args:
            index: which rows, [m].
        """
        condition = self.condition
        if condition is not None and condition.rows > 1:
            condition = Condition({k: v[index.to(v.device)] for k, v in condition.items()})
        field = Field(self.model, condition, grad=self.grad)
        field._calls = self._calls
        return field

    def nodes(self, times: Tensor) -> list[Node]:
        """The nodes at times of a grid, float64 [steps + 1]."""
        alpha, sigma = self.schedule(times)
        return [Node(*v) for v in torch.stack((times, alpha, sigma), 1).tolist()]


class Solver(ABC):
    """A method that follows the flow from node to node; a new one writes `walk` only.

    Attributes:
        exact: the walk back over the same nodes, with the memory, undoes the walk to rounding.
        keeps: the memory of an inversion is also right where the condition changes; otherwise
            an edit starts without it.
        visits: a walk yields a state at every node; otherwise only the first and the last.
    """

    exact: ClassVar[bool] = False
    keeps: ClassVar[bool] = False
    visits: ClassVar[bool] = True

    @abstractmethod
    def walk(
        self, field: Field, nodes: Sequence[Node], x: Tensor, memory: tuple[Tensor, ...] = ()
    ) -> Iterator[Mark]:
        """The states at the nodes, the first of which is x; made when they are asked for.

        Args:
            field: the score model under its condition.
            nodes: where to go, at least two, times strictly rising or falling.
            x: the state at the first node, [n, *shape], float32 or float64.
            memory: the memory of the mark that x is from, to go on from there or back.
        """

    def grid(self, schedule: Schedule, start: float, stop: float) -> Grid:
        """The grid that suits the solver best between two times."""
        return ClippedLogSNR()

    def clean(self, mark: Mark, node: Node) -> Tensor:
        """The clean state that the last mark of a walk stands for, x_t / alpha."""
        return mark.x / node.alpha

    def describe(self) -> dict[str, object]:
        """The solver's name and options, for a manifest."""
        plain = (bool, int, float, str, type(None))
        shown = {k: v if isinstance(v, plain) else repr(v) for k, v in vars(self).items()}
        return {"name": type(self).__name__, **shown}
