"""The classical Runge-Kutta method.

y' = y + h (k_1 + 2 k_2 + 2 k_3 + k_4) / 6
"""

from dataclasses import dataclass
from typing import ClassVar

from sdstoolkit.integrate import RK4 as TABLEAU
from sdstoolkit.integrate import Tableau
from sdstoolkit.solvers._runge_kutta import RungeKutta

__all__ = ["RK4"]


@dataclass(frozen=True, kw_only=True)
class RK4(RungeKutta):
    """Fourth order, y' = y + h (k_1 + 2 k_2 + 2 k_3 + k_4) / 6; not for fewer than 25 steps.

    Network evaluations: 4 a step.

    Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, 1993,
    https://doi.org/10.1007/978-3-540-78862-1.

    Args:
        coordinate: of y and s; None for `LogRatio`, or `Fraction` where that is infinite.
    """

    tableau: ClassVar[Tableau] = TABLEAU
