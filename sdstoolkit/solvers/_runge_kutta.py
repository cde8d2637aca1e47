"""Explicit Runge-Kutta steps of the flow in a coordinate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from sdstoolkit.integrate import Tableau, step
from sdstoolkit.solvers.base import Field, Mark, Node, Solver
from sdstoolkit.solvers.coordinates import Coordinate, LogRatio, choose, slope

__all__ = ["RungeKutta"]


@dataclass(frozen=True, kw_only=True)
class RungeKutta(Solver):
    """The steps of a tableau, y' = y + h sum_i b_i k_i; a new one names its `tableau`."""

    coordinate: Coordinate | None = None
    tableau: ClassVar[Tableau]

    def walk(
        self, field: Field, nodes: Sequence[Node], x: Tensor, memory: tuple[Tensor, ...] = ()
    ) -> Iterator[Mark]:
        """The states at the nodes."""
        coordinate = choose(self.coordinate, LogRatio(), nodes)
        f = slope(coordinate, field)
        yield Mark(x)
        for node, then in pairwise(nodes):
            (s, scale), (s_then, scale_then) = coordinate.at(node), coordinate.at(then)
            x = scale_then * step(self.tableau, f, x / scale, s, s_then - s)
            yield Mark(x)
