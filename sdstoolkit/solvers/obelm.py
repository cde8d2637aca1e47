"""O-BELM: the leapfrog whose local error is smallest, exactly reversible.

    y_next = r^2 y_past + (1 - r^2) y + h (1 + r) f(y, s),   r = h / h_past

It is exact for quadratics in s, and its own inverse on the reversed grid (r becomes 1 / r).
"""

from dataclasses import dataclass
from typing import ClassVar

from sdstoolkit.solvers._two_step import TwoStep
from sdstoolkit.solvers.base import Solver
from sdstoolkit.solvers.rk4 import RK4

__all__ = ["OBELM"]


@dataclass(frozen=True, kw_only=True)
class OBELM(TwoStep):
    """Second order and exactly reversible, y' = r^2 y_past + (1 - r^2) y + h (1 + r) f(y, s).

    On a growing grid, which an inversion's is, the error of the first step is multiplied by r^2
    at every step; so that step is a Runge-Kutta step of order 4.

    Network evaluations: 1 a step, and 3; back with the memory, 1 a step less 1.

    Wang et al., 2024, https://arxiv.org/abs/2410.07273.

    Args:
        coordinate: of y and s; None for `Ratio`, or `Fraction` where that is infinite.
    """

    first: ClassVar[Solver] = RK4()

    def weights(self, h: float, h_past: float) -> tuple[float, float, float]:
        """(r^2, 1 - r^2, h (1 + r))."""
        r = h / h_past
        return r * r, 1 - r * r, h * (1 + r)
