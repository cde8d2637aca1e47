"""Predictor-corrector sampling: a step down the noise levels, and Langevin steps at each.

At the level (alpha, sigma) the score is -eps_hat / sigma, so that a Langevin step of the length
e sigma^2 reads

    x <- x - e sigma eps_hat + sqrt(2 e) sigma z,   e = 2 r^2 (|z| / |eps_hat|)^2,

with r the signal-to-noise ratio of the step (Song et al., 2021, https://arxiv.org/abs/2011.13456).
In many dimensions |z| = |eps_hat| nearly, which leaves e = 2 r^2.

The step down to (alpha_s, sigma_s) has the mean of q(x_s | x_t, x_0_hat), and draws noise of that
law's variance, or of the larger one of the way up, q(x_t | x_s):

    (sigma_s / sigma_t)^2 W,   or   W = sigma_t^2 - (alpha_t sigma_s / alpha_s)^2.

The larger one is the reverse diffusion of the published code, and DDPM's beta.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.grids import Grid, UniformTime
from sdstoolkit.samplers._walk import Draw, Sampler, place, positive, predict
from sdstoolkit.samplers.ddim import clean, hop, kernel
from sdstoolkit.score import ScoreModel

__all__ = ["PredictorCorrector"]

_UNIFORM = UniformTime()


class PredictorCorrector(Sampler):
    """Langevin corrections, then an ancestral step, at each level; ends in the posterior mean.

        x <- x - e sigma eps_hat + sqrt(2 e) sigma z,   e = 2 r^2

    (steps + 1) (1 + corrections) network evaluations a row. `ladder` has the ratios sigma / alpha
    that the predictor steps come to.

    Args:
        model: the score model.
        steps: levels, at least 1.
        corrections: Langevin steps at each level, at least 0.
        snr: r, above 0 and below 1; 0.16 for images.
        measured: scale e by (mean |z| / mean |eps_hat|)^2 over the batch, as the published code
            does. A row then depends on the rows beside it.
        wide: draw with the larger of the two variances, as the published code does.
        grid: which times.
        start: the first time, in (0, 1].
        stop: the last one, in [0, start).

    Raises:
        ValueError: numbers out of range; when run, times at which the model is ill-posed.
    """

    def __init__(
        self,
        model: ScoreModel,
        *,
        steps: int = 100,
        corrections: int = 1,
        snr: float = 0.16,
        measured: bool = False,
        wide: bool = False,
        grid: Grid = _UNIFORM,
        start: float = 1.0,
        stop: float = 0.0,
    ) -> None:
        positive(steps=steps, snr=snr)
        if corrections < 0 or not snr < 1:
            raise ValueError(
                f"corrections = {corrections} and snr = {snr} are not at least 0 and below 1, "
                "from where on Langevin steps are unstable."
            )
        if not start > stop:
            raise ValueError(f"start = {start} is not after stop = {stop}; sampling goes down.")
        self.model, self.shape = model, model.shape
        self.corrections, self.snr = corrections, snr
        self.measured, self.wide = measured, wide
        times = grid(model.schedule, steps, start, stop)
        self.times: list[float] = times.tolist()
        self.ladder: list[float] = (-model.schedule.log_snr(times[1:]) / 2).exp().tolist()

    def begin(self, draw: Draw) -> Tensor:
        """Noise alone, N(0, sigma(start)^2 I)."""
        return kernel(self.model.schedule, self.times[0])[1] * draw.normal()

    def walk(self, x: Tensor, draw: Draw, condition: Condition | None) -> Iterator[Tensor]:
        """The states after each predictor step, and then the posterior mean."""
        schedule = self.model.schedule
        for t, s in zip(self.times, self.times[1:], strict=False):
            x = self._correct(x, t, draw, condition)
            seen = predict(self.model, x, t, condition)
            x = hop(seen, schedule, t, s, draw, 1.0, wide=self.wide)
            yield x
        last = self.times[-1]
        if kernel(schedule, last)[1] > 0:
            x = self._correct(x, last, draw, condition)
        yield from clean(self.model, x, last, condition)

    def _correct(self, x: Tensor, t: float, draw: Draw, condition: Condition | None) -> Tensor:
        """Langevin steps at one level."""
        sigma = kernel(self.model.schedule, t)[1]
        for _ in range(self.corrections):
            eps, z = predict(self.model, x, t, condition).eps, draw.normal()
            e: float | Tensor = 2 * self.snr**2
            if self.measured:
                e = e * (_norm(z) / _norm(eps)) ** 2
            x = x - e * sigma * eps + (2 * e) ** 0.5 * sigma * z
        return x

    def device(self) -> torch.device:
        """The model's device."""
        return place(self.model)


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).mean()
