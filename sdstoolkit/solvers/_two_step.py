"""Leapfrog: the next state from the last two, and so the last from the next two.

    y_next = a y_past + b y + c f(y, s)

With the weights of a method for which the same equation holds on the reversed grid, the pair of
the last two states leads back over the same nodes.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sdstoolkit.solvers.base import Field, Mark, Node, Solver
from sdstoolkit.solvers.coordinates import Coordinate, Ratio, choose

__all__ = ["TwoStep"]


@dataclass(frozen=True, kw_only=True)
class TwoStep(Solver):
    """A leapfrog method; a new one writes `weights` and names the solver of its first step.

    Its memory leads back, and only back: it is the state of the node before.
    """

    exact: ClassVar[bool] = True
    first: ClassVar[Solver]

    coordinate: Coordinate | None = None

    @abstractmethod
    def weights(self, h: float, h_past: float) -> tuple[float, float, float]:
        """(a, b, c) for a step h after a step h_past, of the same sign."""

    def walk(
        self, field: Field, nodes: Sequence[Node], x: Tensor, memory: tuple[Tensor, ...] = ()
    ) -> Iterator[Mark]:
        """The states at the nodes; memory is the pair of y before and y, in y's units."""
        coordinate = choose(self.coordinate, Ratio(), nodes)
        places, scales = zip(*map(coordinate.at, nodes), strict=True)
        yield Mark(x, memory)
        if memory:
            y, past = memory  # turned round: what was before comes next
        else:
            *_, mark = self.first.walk(field, nodes[:2], x)
            y, past = mark.x / scales[1], x / scales[0]
        yield Mark(scales[1] * y, (past, y))
        for i in range(1, len(nodes) - 1):
            h, h_past = places[i + 1] - places[i], places[i] - places[i - 1]
            a, b, c = self.weights(h, h_past)
            known = field(scales[i] * y, nodes[i].t)
            y, past = a * past + b * y + c * coordinate.slope(known), y
            yield Mark(scales[i + 1] * y, (past, y), known.x_0)
