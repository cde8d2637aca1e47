"""Heun's method, the explicit trapezoidal rule.

k_1 = f(y, s),   k_2 = f(y + h k_1, s + h),   y' = y + h (k_1 + k_2) / 2
"""

from dataclasses import dataclass
from typing import ClassVar

from sdstoolkit.integrate import HEUN, Tableau
from sdstoolkit.solvers._runge_kutta import RungeKutta

__all__ = ["Heun"]


@dataclass(frozen=True, kw_only=True)
class Heun(RungeKutta):
    """Second order, y' = y + h (f(y, s) + f(y + h f(y, s), s + h)) / 2.

    Network evaluations: 2 a step.

    Karras, Aittala, Aila and Laine, 2022, https://arxiv.org/abs/2206.00364.

    Args:
        coordinate: of y and s; None for `LogRatio`, or `Fraction` where that is infinite.
    """

    tableau: ClassVar[Tableau] = HEUN
