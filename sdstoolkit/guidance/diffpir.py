"""DiffPIR: at every level the image nearest to x_0_hat that explains the measurement.

    x_0 = argmin |y - A x|^2 + rho |x - x_0_hat|^2
        = x_0_hat + A^T (A A^T + rho)^-1 (y - A x_0_hat),
    rho = strength sigma_y^2 / r_t^2

No derivative of the network is taken. Without noise it is the projection onto the measurement.
"""

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import move
from sdstoolkit.guidance._posterior import Measured
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.operators import Operator
from sdstoolkit.score import ScoreModel

__all__ = ["DiffPIR"]


class DiffPIR(Measured):
    """Plug-and-play restoration, as a score model; how much noise is renewed is its sampler's.

        x_0 = x_0_hat + A^T (A A^T + rho)^-1 (y - A x_0_hat),   rho = strength sigma_y^2 / r_t^2

    Network evaluations a row: 1. Take it with `DDIM(eta=...)`, eta from .3 to 1.

    Zhu et al., 2023, https://arxiv.org/abs/2305.08995.

    Args:
        model: the prior, guided or not.
        operator: A.
        y: what was measured, [1 or n, ...], in the range of A x_0.
        sigma_y: the measurement's noise, in the units of x_0, at least 0.
        strength: of the prior, above 0.

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
        strength: float = 7.0,
    ) -> None:
        if not 0 < strength < float("inf"):
            raise ValueError(f"strength is {strength}, expected a finite number above 0.")
        super().__init__(model, operator, y, sigma_y=sigma_y, strength=strength)
        self.strength = strength

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The output that belongs to the x_0 nearest to the prediction."""
        (output,) = self.model.outputs(x_t, level, (condition,))
        x_0 = self.parameterization.resolve(output, x_t, level).x_0
        rho = self.strength * self.sigma_y**2 * (level.alpha / level.sigma).square()
        if self.sigma_y == 0:
            rho = torch.zeros_like(rho)
        change = self.operator.adjoint(self.operator.solve(self.misfit(x_0), rho))
        return move(self, output, level, change)
