"""Reversible Heun: one evaluation a step, undone exactly by the same steps on the reversed grid.

A second state z walks beside y, and the slope is only ever taken at z,

    y_half = y + (h / 2) f(z, s),  z' = 2 y_half - z,  y' = y_half + (h / 2) f(z', s + h).

To exchange (y, z) with (y', z') and h with -h gives the same three equations. In integers, where
adding a rounded number and subtracting it cancel to the last bit, the way back is bit-exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from sdstoolkit.grids import ClippedLogSNR, Grid, NoiseFraction
from sdstoolkit.noise import Schedule
from sdstoolkit.solvers.base import Field, Mark, Node, Solver
from sdstoolkit.solvers.coordinates import Coordinate, Fraction, Ratio, choose

__all__ = ["ReversibleHeun"]

_QUANTUM = 2.0**-36


@dataclass(frozen=True, kw_only=True)
class ReversibleHeun(Solver):
    """Second order and exactly reversible, y' = y + h (f(z, s) + f(z', s + h)) / 2.

    Best of the exact ones where the score is good; where it is not, at few steps, `OBELM` is the
    safer one. The state must be float64 or fixed-point; the network need not.

    Network evaluations: 1 a step, and 1.

    Kidger, Foster, Li and Lyons, 2021, https://arxiv.org/abs/2105.13493.

    Args:
        coordinate: of y and s; None for `Ratio`, or `Fraction` where that is infinite. Not
            `LogRatio`, in which the method is unstable.
        fixed_point: keep y and z as int64 multiples of 2^-36. The way back then changes no bit,
            for any network that repeats itself; what goes in is rounded to that lattice first.
    """

    exact: ClassVar[bool] = True

    coordinate: Coordinate | None = None
    fixed_point: bool = False

    def grid(self, schedule: Schedule, start: float, stop: float) -> Grid:
        """Even in s for `Fraction`, even in the log-SNR otherwise."""
        return NoiseFraction() if isinstance(self.coordinate, Fraction) else ClippedLogSNR()

    def walk(
        self, field: Field, nodes: Sequence[Node], x: Tensor, memory: tuple[Tensor, ...] = ()
    ) -> Iterator[Mark]:
        """The states at the nodes; memory is (y, z) in the solver's units."""
        coordinate = choose(self.coordinate, Ratio(), nodes)
        places, scales = zip(*map(coordinate.at, nodes), strict=True)
        y, z = memory or (self._raw(x / scales[0]),) * 2
        yield Mark(x, (y, z))
        known = field(scales[0] * self._real(z, x), nodes[0].t)
        for i, j in pairwise(range(len(nodes))):
            half = (places[j] - places[i]) / 2
            middle = y + self._raw(half * coordinate.slope(known))
            z = 2 * middle - z
            known = field(scales[j] * self._real(z, x), nodes[j].t)
            y = middle + self._raw(half * coordinate.slope(known))
            yield Mark(scales[j] * self._real(y, x), (y, z), known.x_0)

    def clean(self, mark: Mark, node: Node) -> Tensor:
        """The clean state of the last mark; y itself where that is what y is."""
        coordinate = choose(self.coordinate, Ratio(), [node])
        if isinstance(coordinate, Ratio):
            return self._real(mark.memory[0], mark.x)
        return super().clean(mark, node)

    def _raw(self, v: Tensor) -> Tensor:
        """A state or an increment in the solver's units; symmetric, so that -v gives the negative.

        What does not fit into an integer becomes the lowest one, and is found at the end.
        """
        return (v.double() / _QUANTUM).round().to(torch.int64) if self.fixed_point else v

    def _real(self, v: Tensor, like: Tensor) -> Tensor:
        return (v.double() * _QUANTUM).to(like.dtype) if self.fixed_point else v
