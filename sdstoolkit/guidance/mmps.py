"""Moment-matching posterior sampling: the posterior covariance is the network's own.

    C = Cov[x_0 | x_t] = sigma^2 / alpha J,
    x_0 = x_0_hat + C A^T (sigma_y^2 + A C A^T)^-1 (y - A x_0_hat)

is exact for every Gaussian prior. The inverse is a few steps of conjugate gradients, each with one
way back through the network for C.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sdstoolkit.guidance._base import inner
from sdstoolkit.guidance._posterior import Measured
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.operators import Operator
from sdstoolkit.score import ScoreModel

__all__ = ["MMPS"]


class MMPS(Measured):
    """Moment-matching posterior sampling, a score model of the posterior.

        x_0 = x_0_hat + C A^T (sigma_y^2 + A C A^T)^-1 (y - A x_0_hat),   C = sigma^2 / alpha J

    Network evaluations a row: 1, and iterations + 1 ways back. It goes with any sampler.

    Rozet et al., 2024, https://arxiv.org/abs/2405.13712.

    Args:
        model: the prior, guided or not.
        operator: A.
        y: what was measured, [1 or n, ...], in the range of A x_0.
        sigma_y: the measurement's noise, in the units of x_0, at least 0; small ones want more
            iterations.
        iterations: of conjugate gradients, at least 1.

    Raises:
        ValueError: such numbers.
    """

    def __init__(
        self,
        model: ScoreModel,
        operator: Operator,
        y: Tensor,
        *,
        sigma_y: float = 0.01,
        iterations: int = 3,
    ) -> None:
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}, expected at least 1.")
        super().__init__(model, operator, y, sigma_y=sigma_y, iterations=iterations)
        self.iterations = iterations

    def change(self, x_0: Tensor, level: NoiseLevel, pull: Callable[[Tensor], Tensor]) -> Tensor:
        """C A^T v, with v by conjugate gradients, a row at a time in parallel."""
        A, gain = self.operator, level.sigma**2 / level.alpha

        def apply(v: Tensor) -> Tensor:
            return self.sigma_y**2 * v + A(gain * pull(A.adjoint(v)))

        rest = self.misfit(x_0)
        v, p, square = torch.zeros_like(rest), rest, inner(rest, rest)
        for _ in range(self.iterations):
            q = apply(p)
            bend = inner(p, q)
            step = torch.where(bend > 0, square / bend, 0.0)  # solved, or as far as it goes
            v, rest = v + step * p, rest - step * q
            new = inner(rest, rest)
            p = rest + torch.where(square > 0, new / square, 0.0) * p
            square = new
        return gain * pull(A.adjoint(v))
