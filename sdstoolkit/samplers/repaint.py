"""RePaint: the known part of an image is noised along, the rest is sampled to fit.

    x_s = m (alpha_s y + sigma_s xi) + (1 - m) DDIM(x_t),

and, so that the two parts come to agree, x_s is noised back to t and the step made again, some
times over.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.grids import Grid, UniformTime
from sdstoolkit.samplers._walk import Draw, predict
from sdstoolkit.samplers.ddim import DDIM, hop, kernel
from sdstoolkit.score import ScoreModel

__all__ = ["RePaint"]

_UNIFORM = UniformTime()


class RePaint(DDIM):
    """Inpainting by resampling; what is known is kept to the bit.

        x_s = m (alpha_s y + sigma_s xi) + (1 - m) DDIM(x_t);   x_t <- noise(x_s), and again

    Network evaluations a row: resamples + 1 a step.

    Lugmayr et al., 2022, https://arxiv.org/abs/2201.09865.

    Args:
        model: the score model.
        y: the known image in the model's space, [1 or n, *shape]; its unknown part has no
            influence.
        known: m, [1 or n, 1 or c, h, w] of zeros and ones.
        resamples: how often a step is made again, at least 0.
        steps, eta, grid, start, stop: as `DDIM`.

    Raises:
        ValueError: such numbers, or a mask of other values.
    """

    def __init__(
        self,
        model: ScoreModel,
        y: Tensor,
        known: Tensor,
        *,
        resamples: int = 3,
        steps: int = 50,
        eta: float = 1.0,
        grid: Grid = _UNIFORM,
        start: float = 1.0,
        stop: float = 0.0,
    ) -> None:
        super().__init__(model, steps=steps, eta=eta, grid=grid, start=start, stop=stop)
        if resamples < 0:
            raise ValueError(f"resamples = {resamples} is not at least 0.")
        if not bool(((known == 0) | (known == 1)).all()):
            raise ValueError("The mask of what is known has other values than 0 and 1.")
        self.y, self.known, self.resamples = y, known, resamples

    def walk(self, x: Tensor, draw: Draw, condition: Condition | None) -> Iterator[Tensor]:
        """The states at the grid's times after the first, and then the image."""
        schedule, known = self.model.schedule, self.known.to(x)
        y = torch.where(known > 0, self.y.to(x), 0.0)
        for t, s in zip(self.times, self.times[1:], strict=False):
            (a_t, b_t), (a_s, b_s) = kernel(schedule, t), kernel(schedule, s)
            for turn in range(self.resamples + 1):
                if turn:  # q(x_t | x_s)
                    gain = a_t / a_s
                    spread = max(0.0, b_t**2 - (gain * b_s) ** 2) ** 0.5
                    x = gain * x + spread * draw.normal()
                seen = predict(self.model, x, t, condition)
                free = hop(seen, schedule, t, s, draw, self.eta)
                x = known * (a_s * y + b_s * draw.normal()) + (1 - known) * free
            yield x
        x_0 = predict(self.model, x, self.times[-1], condition).x_0
        yield torch.where(known > 0, y, x_0)
