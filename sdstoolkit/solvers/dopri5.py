"""Dormand and Prince's pair of orders 5 and 4, with a step size for each row.

    e = rms(h sum_i (b_i - b*_i) k_i / (atol + rtol max(|y|, |y'|))),   h <- 0.9 h e^(-1/5)

A row is done when it is there; the network is called with the others only. So a row's steps and
its result depend on no other row, which one step size for a whole batch cannot give.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sdstoolkit.solvers.base import Field, Mark, Node, Solver
from sdstoolkit.solvers.coordinates import Coordinate, LogRatio, choose, slope

__all__ = ["Dopri5"]

_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@dataclass(frozen=True, kw_only=True)
class Dopri5(Solver):
    """Order 5 with an error estimate for each row, |y - y*| <= atol + rtol |y| a step.

    The grid gives the two ends; the steps between them are the solver's own, and a walk yields
    only the first state and the last. A row that stops being finite ends as NaN.

    Network evaluations: 6 a step, accepted or not, and 1; about 100 at 1e-4, 200 at 1e-6.

    Dormand and Prince, 1980, https://doi.org/10.1016/0771-050X(80)90013-3.

    Args:
        rtol, atol: tolerances of a step, above 0, in units of x / alpha.
        coordinate: of y and s; None for `LogRatio`, or `Fraction` where that is infinite.

    Raises:
        ValueError: such tolerances.
    """

    visits: ClassVar[bool] = False

    rtol: float = 1e-5
    atol: float = 1e-5
    coordinate: Coordinate | None = None

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"rtol = {self.rtol} and atol = {self.atol} are not both above 0.")

    def walk(
        self, field: Field, nodes: Sequence[Node], x: Tensor, memory: tuple[Tensor, ...] = ()
    ) -> Iterator[Mark]:
        """The first state and the last."""
        coordinate = choose(self.coordinate, LogRatio(), nodes)
        (start, scale), (stop, scale_stop) = coordinate.at(nodes[0]), coordinate.at(nodes[-1])
        yield Mark(x)
        y = x / scale
        s = torch.full((len(x),), start, dtype=torch.float64, device=x.device)
        k = slope(coordinate, field)(y, s)
        h = self._first(y, k, stop - start)
        todo = torch.arange(len(x), device=x.device)
        while len(todo):
            f = slope(coordinate, field.rows(todo))
            left = stop - s[todo]
            last = h[todo].abs() >= left.abs()
            size = torch.where(last, left, h[todo])
            y_next, k_next, error = self._step(f, y[todo], s[todo], size, k[todo])
            good = error <= 1  # a NaN is not
            factor = torch.where(error.isfinite(), 0.9 * error.clamp(min=1e-8) ** -0.2, 0.2)
            h[todo] = size * factor.clamp(0.2, 5.0)
            moved = todo[good]
            y[moved], k[moved] = y_next[good], k_next[good]
            s[moved] = torch.where(last, stop, s[todo] + size)[good]
            lost = ~good & (size.abs() < 1e-10 * abs(stop - start))
            y[todo[lost]] = math.nan
            todo = todo[~(good & last) & ~lost]
        yield Mark(scale_stop * y)

    def _step(
        self, f: Callable[[Tensor, Tensor], Tensor], y: Tensor, s: Tensor, h: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next state, its slope and the error of each row in units of the tolerance."""
        wide = h.to(y.dtype).reshape(-1, *(1,) * (y.ndim - 1))
        slopes = [k]
        for row, c in zip(_A, _C, strict=True):
            move = sum(a * v for a, v in zip(row, slopes, strict=True) if a)
            state = y + wide * move
            slopes.append(f(state, s + c * h))
        error = wide * sum(e * v for e, v in zip(_E, slopes, strict=True) if e)
        return state, slopes[-1], self._rms(error, torch.maximum(y.abs(), state.abs()))

    def _first(self, y: Tensor, k: Tensor, span: float) -> Tensor:
        """A first step small enough to be judged: one per cent of the state."""
        size = 0.01 * self._rms(y, y.abs()) / self._rms(k, y.abs())
        shortest, longest = 1e-4 * abs(span), abs(span)
        size = torch.where(size.isfinite(), size, shortest).clamp(shortest, longest)
        return math.copysign(1.0, span) * size

    def _rms(self, v: Tensor, size: Tensor) -> Tensor:
        return (v / (self.atol + self.rtol * size)).flatten(1).square().mean(1).sqrt().double()
