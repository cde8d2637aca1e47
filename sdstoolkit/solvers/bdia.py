"""BDIA, bi-directional integration approximation: DDIM steps forth and back, averaged.

    y_next = g y_past + (1 - g) y + ((s_next - s) + g (s - s_past)) f(y, s)

Its other root grows by 1 / g a step on the way back, so that only g = 1, the plain leapfrog, is of
use for inversion. It is here for comparison.
"""

from dataclasses import dataclass
from typing import ClassVar

from sdstoolkit.solvers._two_step import TwoStep
from sdstoolkit.solvers.base import Solver
from sdstoolkit.solvers.euler import Euler

__all__ = ["BDIA"]


@dataclass(frozen=True, kw_only=True)
class BDIA(TwoStep):
    """The leapfrog y' = y_past + (h + h_past) f(y, s), exactly reversible; `OBELM` is better.

    Network evaluations: 1 a step; back with the memory, 1 a step less 1.

    Zhang, Lewis and Kleijn, 2023, https://arxiv.org/abs/2307.10829.

    Args:
        coordinate: of y and s; None for `Ratio`, or `Fraction` where that is infinite.
        g: must be 1.

    Raises:
        ValueError: another g.
    """

    first: ClassVar[Solver] = Euler()

    g: float = 1.0

    def __post_init__(self) -> None:
        if self.g != 1:
            raise ValueError(
                f"g = {self.g} is refused: on the way back a rounding error grows by 1 / g a "
                "step, to latents of 1e5 after 50 steps at g = 0.5; use g = 1, or OBELM."
            )

    def weights(self, h: float, h_past: float) -> tuple[float, float, float]:
        """(1, 0, h + h_past)."""
        return 1.0, 0.0, h + h_past
