"""Pseudo-inverse guidance: the posterior of a prior that is Gaussian around x_0_hat.

    grad log p(y | x_t) = J^T A^T (r^2 A A^T + sigma_y^2)^-1 (y - A x_0_hat),
    r^2 = s^2 sigma^2 / (alpha^2 s^2 + sigma^2)

r^2 is the posterior variance of x_0 under N(m, s^2 I), so that for such a prior it is exact.
"""

from collections.abc import Callable

from torch import Tensor

from sdstoolkit.guidance._posterior import Measured
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.operators import Operator
from sdstoolkit.score import ScoreModel

__all__ = ["PiGDM"]


class PiGDM(Measured):
    """Pseudo-inverse-guided diffusion, a score model of the posterior.

        x_0 = x_0_hat + sigma^2 / alpha J^T A^T (r^2 A A^T + sigma_y^2)^-1 (y - A x_0_hat)

    Network evaluations a row: 1, and its way back. It goes with any sampler.

    Song, Vahdat, Mardani and Kautz, 2023, https://openreview.net/forum?id=9_gsMA8MRKQ.

    Args:
        model: the prior, guided or not.
        operator: A.
        y: what was measured, [1 or n, ...], in the range of A x_0.
        sigma_y: the measurement's noise, in the units of x_0, at least 0.
        spread: s, of the images, in the units of x_0, above 0.

    Raises:
        ValueError: such numbers.
    """

    def __init__(
        self,
        model: ScoreModel,
        operator: Operator,
        y: Tensor,
        *,
        sigma_y: float = 0.0,
        spread: float = 1.0,
    ) -> None:
        if not 0 < spread < float("inf"):
            raise ValueError(f"spread is {spread}, expected a finite number above 0.")
        super().__init__(model, operator, y, sigma_y=sigma_y, spread=spread)
        self.spread = spread

    def change(self, x_0: Tensor, level: NoiseLevel, pull: Callable[[Tensor], Tensor]) -> Tensor:
        """sigma^2 / alpha J^T A^T (...)^-1 (y - A x_0)."""
        square = (self.spread * level.sigma) ** 2
        square = square / ((self.spread * level.alpha) ** 2 + level.sigma**2)
        v = self.operator.solve(self.misfit(x_0), self.sigma_y**2 / square) / square
        return level.sigma**2 / level.alpha * pull(self.operator.adjoint(v))
