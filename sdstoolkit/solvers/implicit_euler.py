"""Euler's method, and on the way up its exact inverse, found by a fixed-point iteration.

Down, where it is DDIM, y_t becomes y_s = y_t + (s - t) f(y_t, t). What undoes that is implicit,

    z = y_s + h f(z, t),   h = t - s,

and is iterated from the slope of the step before. The plain iteration diverges between modes,
where f contracts more than 1 / h; so it is Anderson's, of depth 1, for each row on its own:

    r = y_s + h f(z) - z,   z' = (1 - theta) (z + r) + theta (z_past + r_past),
    theta = <r, r - r_past> / |r - r_past|^2.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sdstoolkit.prediction import Prediction
from sdstoolkit.solvers.base import Field, Mark, Node, Solver
from sdstoolkit.solvers.coordinates import Coordinate, Ratio, choose

__all__ = ["ImplicitEuler"]


@dataclass(frozen=True, kw_only=True)
class ImplicitEuler(Solver):
    """First order; inverts with z = y_s + h f(z, t), which Euler's step from t to s undoes.

    The way back closes to what the iteration leaves, which is least where steps are many. A row
    keeps its best iterate, and stops at `tolerance`; it depends on no other row.

    Network evaluations: 1 a step down, and up to `iterations` a step up.

    Pan et al. (AIDI), 2023, https://arxiv.org/abs/2309.04907; Garibi et al. (ReNoise), 2024,
    https://arxiv.org/abs/2403.14602; Anderson, 1965, https://doi.org/10.1145/321296.321305.

    Args:
        iterations: evaluations of a step up, at least 1.
        tolerance: root mean square of r at which a row stops, at least 0.

    Raises:
        ValueError: one of these is out of range.
    """

    iterations: int = 6
    tolerance: float = 1e-12

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.tolerance >= 0:
            raise ValueError(
                f"iterations = {self.iterations} is not at least 1, or tolerance = "
                f"{self.tolerance} is not at least 0."
            )

    def walk(
        self, field: Field, nodes: Sequence[Node], x: Tensor, memory: tuple[Tensor, ...] = ()
    ) -> Iterator[Mark]:
        """The states at the nodes."""
        coordinate = choose(None, Ratio(), nodes)
        places, scales = zip(*map(coordinate.at, nodes), strict=True)
        y, slope = x / scales[0], None
        yield Mark(x)
        for i, j in pairwise(range(len(nodes))):
            h, at = places[j] - places[i], j if nodes[j].t > nodes[i].t else i

            def known(z: Tensor, at: int = at) -> Prediction:
                return field(scales[at] * z, nodes[at].t)

            if at == i:
                seen = known(y)
                y = y + h * coordinate.slope(seen)
            else:
                y, slope, seen = self._solve(known, coordinate, y, h, slope)
            yield Mark(scales[j] * y, x_0=seen.x_0)

    def _solve(
        self,
        known: Callable[[Tensor], Prediction],
        coordinate: Coordinate,
        y: Tensor,
        h: float,
        slope: Tensor | None,
    ) -> tuple[Tensor, Tensor, Prediction]:
        """z with the least |y + h f(z) - z| of a row, the slope there, and what was last seen."""
        z = y if slope is None else y + h * slope
        best = best_slope = torch.full_like(z, torch.nan)  # a row without a finite slope has none
        least, past = z.new_full((len(z),), torch.inf), None
        for _ in range(self.iterations):
            seen = known(z)
            f = coordinate.slope(seen)
            g = y + h * f
            r = g - z
            size = r.flatten(1).square().mean(1).sqrt()
            better = _wide((size < least) & (least > self.tolerance), z)
            best, best_slope = torch.where(better, z, best), torch.where(better, f, best_slope)
            least = torch.where(better.flatten(), size, least)
            if bool((least <= self.tolerance).all()):
                break
            if past is None:
                z = g
            else:
                change = (r - past[0]).flatten(1)
                length = change.square().sum(1)
                along = (r.flatten(1) * change).sum(1) / length
                theta = torch.where(length > 0, along, 0.0)  # nothing changed: the plain step
                z = g - _wide(theta, z) * (g - past[1])
            past = r, g
        return best, best_slope, seen


def _wide(rows: Tensor, like: Tensor) -> Tensor:
    return rows.reshape(-1, *(1,) * (like.ndim - 1))
