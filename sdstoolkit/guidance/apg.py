"""Adaptive projected guidance: only what is new in the difference is enlarged.

    d = x_0(c) - x_0(n) + momentum d_before,   d <- d min(1, radius / |d|),
    x_0 = x_0(c) + (scale - 1) (d_perp + parallel d_par)

with d split along x_0(c) and across it. The parallel part makes colours saturate, the rest does
what guidance is for. With parallel = 1, no radius and no momentum it is classifier-free guidance.
"""

import math

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided, finite, inner, move
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["AdaptiveProjected"]


class AdaptiveProjected(Guided):
    """Classifier-free guidance whose difference is bounded, and projected off the prediction.

        x_0 = x_0(c) + (scale - 1) (d_perp + parallel d_par)

    Network evaluations a row: 2, in one batched call. The momentum belongs to one walk with
    falling times: a call with another shape, or at a later time than the last, begins anew.

    Sadat, Hilliges and Weber, 2024, https://arxiv.org/abs/2410.02416, on x_0 as there.

    Args:
        model: the model to guide.
        null: the condition to guide away from.
        scale: any finite number.
        parallel: the share of the parallel part that is kept; 0 projects it away.
        radius: the longest difference, in the units of x_0, a norm a row; infinity for none.
        momentum: what is kept of the last difference, in (-1, 1); the paper takes -0.5.

    Raises:
        ValueError: such numbers.
    """

    def __init__(
        self,
        model: ScoreModel,
        null: Condition,
        *,
        scale: float,
        parallel: float = 0.0,
        radius: float = 15.0,
        momentum: float = -0.5,
    ) -> None:
        finite(scale=scale, parallel=parallel)
        if not radius > 0 or not -1 < momentum < 1:
            raise ValueError(
                f"radius is {radius} and momentum {momentum}, expected above 0 and in (-1, 1)."
            )
        super().__init__(model, scale=scale, parallel=parallel, radius=radius, momentum=momentum)
        self.null, self.scale, self.parallel = null, scale, parallel
        self.radius, self.momentum = radius, momentum
        self._before: tuple[Tensor, Tensor] | None = None

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The output that belongs to the guided x_0."""
        told, untold = self.pair(x_t, level, condition, self.null)
        resolve = self.parameterization.resolve
        x_0 = resolve(told, x_t, level).x_0
        d = x_0 - resolve(untold, x_t, level).x_0
        if self.momentum:
            d = d + self._kept(d, level)
            self._before = level.t.detach(), d.detach()
        if self.radius < math.inf:
            d = d * (self.radius / inner(d, d).sqrt()).clamp(max=1)
        square = inner(x_0, x_0)
        along = torch.where(square > 0, inner(d, x_0) / square, 0.0) * x_0
        d = d + (self.parallel - 1) * along
        return move(self, told, level, (self.scale - 1) * d)

    def _kept(self, d: Tensor, level: NoiseLevel) -> Tensor:
        if self._before is None or self._before[1].shape != d.shape:
            return torch.zeros_like(d)
        goes_on = (level.t < self._before[0].to(level.t)).reshape(level.sigma.shape)
        return torch.where(goes_on, self.momentum * self._before[1].to(d), 0.0)
