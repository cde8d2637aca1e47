"""EDICT: two coupled states, each moved by the other's noise, then mixed.

    y_1 <- y_1 + h f(y_2, s),  y_2 <- y_2 + h f(y_1, s),
    y_1 <- p y_1 + (1 - p) y_2,  y_2 <- p y_2 + (1 - p) y_1

Each line can be undone. The two change their roles at every step. It is here for comparison.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from sdstoolkit.solvers.base import Field, Mark, Node, Solver
from sdstoolkit.solvers.coordinates import Coordinate, Ratio, choose

__all__ = ["EDICT"]


@dataclass(frozen=True, kw_only=True)
class EDICT(Solver):
    """First order and exactly reversible, by affine coupling; inaccurate at fewer than 100 steps.

    Network evaluations: 2 a step.

    Wallace, Gokul and Naik, 2022, https://arxiv.org/abs/2211.12446.

    Args:
        coordinate: of the states; None for `Ratio`, or `Fraction` where that is infinite.
        p: how little the states are mixed, in (0, 1].

    Raises:
        ValueError: such a p.
    """

    exact: ClassVar[bool] = True
    keeps: ClassVar[bool] = True

    coordinate: Coordinate | None = None
    p: float = 0.93

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise ValueError(f"p = {self.p} is not in (0, 1].")

    def walk(
        self, field: Field, nodes: Sequence[Node], x: Tensor, memory: tuple[Tensor, ...] = ()
    ) -> Iterator[Mark]:
        """The states at the nodes; memory is the two states in their own units."""
        coordinate = choose(self.coordinate, Ratio(), nodes)
        places, scales = zip(*map(coordinate.at, nodes), strict=True)
        p, steps = self.p, len(nodes) - 1
        u, v = memory or (x / scales[0],) * 2
        yield Mark(x, (u, v))
        for i, j in pairwise(range(len(nodes))):
            down = nodes[i].t > nodes[j].t
            high, low = (i, j) if down else (j, i)
            h = places[low] - places[high]

            def move(w: Tensor, high: int = high, h: float = h) -> Tensor:
                return h * coordinate.slope(field(scales[high] * w, nodes[high].t))

            turned = (i if down else steps - 1 - i) % 2 == 1
            if turned:
                u, v = v, u
            if down:
                u = u + move(v)
                v = v + move(u)
                u = p * u + (1 - p) * v
                v = p * v + (1 - p) * u
            else:
                v = (v - (1 - p) * u) / p
                u = (u - (1 - p) * v) / p
                v = v - move(u)
                u = u - move(v)
            if turned:
                u, v = v, u
            yield Mark(scales[j] * u, (u, v))
