"""Diffusion posterior sampling: after every step, a step down the misfit.

    x_s <- x_s - step grad_(x_t) |y - A(x_0_hat(x_t))|

A need not be linear, so that it may hold the decoder of a latent model. The step has one length
whatever the noise; said as a score model it depends on where the sampler goes, like CFG++:

    x_0 <- x_0_hat - step grad / (alpha_s - kappa alpha_t / sigma_t),
    kappa^2 = sigma_s^2 - eta^2 w,   w = sigma_s^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided, move
from sdstoolkit.guidance._grid import Grid
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["DPS"]


class DPS(Guided):
    """Diffusion posterior sampling, for `DDIM` or `Ancestral` on a known grid.

        x_s <- x_s - step grad_(x_t) |y - A(x_0_hat(x_t))|

    Network evaluations a row: 1, and its way back.

    Chung et al., 2022, https://arxiv.org/abs/2209.14687.

    Args:
        model: the prior, guided or not.
        measure: A, any differentiable function of x_0, an `Operator` or more.
        y: what was measured, [1 or n, ...].
        times: the grid of the sampler, falling, such as `DDIM(...).times`.
        eta: of the sampler; 1 for `Ancestral`.
        step: length of the steps, at least 0.

    Raises:
        ValueError: such numbers, times that do not fall; when called, a time off the grid.
    """

    def __init__(
        self,
        model: ScoreModel,
        measure: Callable[[Tensor], Tensor],
        y: Tensor,
        *,
        times: Sequence[float] | Tensor,
        eta: float = 1.0,
        step: float = 1.0,
    ) -> None:
        if not 0 <= step < float("inf") or not 0 <= eta <= 1:
            raise ValueError(f"step is {step} and eta {eta}, expected at least 0 and in [0, 1].")
        self.grid = Grid(times)
        super().__init__(model, step=step, eta=eta, measure=type(measure).__name__)
        self.measure, self.eta, self.step = measure, eta, step
        self.register_buffer("y", y.detach(), persistent=False)

    y: Tensor

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The output with which the sampler's next step is DPS's."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            (output,) = self.model.outputs(x, level, (condition,))
            x_0 = self.parameterization.resolve(output, x, level).x_0
            misfit = (self.y.to(x_0) - self.measure(x_0)).reshape(len(x_0), -1)
            (slope,) = torch.autograd.grad(torch.linalg.vector_norm(misfit, dim=1).sum(), x)
        below = self.grid.below(self.schedule, level)
        share = (level.alpha * below.sigma / (below.alpha * level.sigma)).square()
        kappa = below.sigma * (1 - self.eta**2 * (1 - share)).clamp(min=0).sqrt()
        reach = below.alpha - kappa * level.alpha / level.sigma
        return move(self, output.detach(), level, -self.step / reach * slope)
