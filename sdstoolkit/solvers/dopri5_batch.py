"""Dormand and Prince's pair through torchdiffeq, with one step size for the whole batch.

    max over the batch of |y - y*| <= atol + rtol |y|, in the root mean square

A row's result depends on its batch-mates here, to the tolerance; `Dopri5` has no such dependence.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdstoolkit.solvers.base import Field, Mark, Node, Solver
from sdstoolkit.solvers.coordinates import Coordinate, LogRatio, choose, slope

__all__ = ["BatchDopri5"]


@dataclass(frozen=True, kw_only=True)
class BatchDopri5(Solver):
    """Order 5 with one error estimate for the batch, by `torchdiffeq.odeint`.

    The states at the nodes are interpolated between the solver's own steps, which end at the last.

    Network evaluations: 6 a step, accepted or not, and 2.

    Chen, 2018, https://github.com/rtqichen/torchdiffeq; Dormand and Prince, 1980.

    Args:
        rtol, atol: tolerances of a step, above 0, in units of x / alpha.
        coordinate: of y and s; None for `LogRatio`, or `Fraction` where that is infinite.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    coordinate: Coordinate | None = None

    def walk(
        self, field: Field, nodes: Sequence[Node], x: Tensor, memory: tuple[Tensor, ...] = ()
    ) -> Iterator[Mark]:
        """The states at the nodes, all made before the second is yielded."""
        from torchdiffeq import odeint

        coordinate = choose(self.coordinate, LogRatio(), nodes)
        places, scales = zip(*map(coordinate.at, nodes), strict=True)
        f = slope(coordinate, field)
        sign = math.copysign(1.0, places[-1] - places[0])
        yield Mark(x)
        line = sign * torch.tensor(places, dtype=torch.float64, device=x.device)  # rising
        states = odeint(
            lambda s, y: sign * f(y, sign * s),
            x / scales[0],
            line,
            rtol=self.rtol,
            atol=self.atol,
            method="dopri5",
            options={"step_t": line[-1:]},  # to end there, not beyond it
        )
        for scale, y in zip(scales[1:], states[1:], strict=True):
            yield Mark(scale * y)
