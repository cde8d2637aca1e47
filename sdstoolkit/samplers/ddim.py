"""DDIM, and the ancestral sampler as its random end.

    x_s = alpha_s x_0_hat + sqrt(sigma_s^2 - eta^2 w) eps_hat + eta sqrt(w) z,
    w = sigma_s^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)

takes x_t to a less noisy x_s. w is the variance of the kernel q(x_s | x_t, x_0), so that eta = 1
is the ancestral sampler of DDPM and eta = 0 a step of the probability flow, which is deterministic
(Song, Meng and Ermon, 2020, https://arxiv.org/abs/2010.02502). Nothing divides by alpha_t: pure
noise, alpha_t = 0, is a state like any other.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.grids import Grid, UniformTime
from sdstoolkit.noise import Schedule
from sdstoolkit.prediction import Prediction
from sdstoolkit.samplers._walk import Draw, Sampler, place, positive, predict
from sdstoolkit.score import ScoreModel

__all__ = ["DDIM", "Ancestral"]

_UNIFORM = UniformTime()


def kernel(schedule: Schedule, t: float) -> tuple[float, float]:
    """(alpha, sigma) at a time, as numbers."""
    alpha, sigma = schedule(torch.tensor(t, dtype=torch.float64))
    return float(alpha), float(sigma)


def hop(
    seen: Prediction,
    schedule: Schedule,
    t: float,
    s: float,
    draw: Draw,
    eta: float,
    *,
    wide: bool = False,
) -> Tensor:
    """One step of the formula above, from t to s < t.

    Args:
        seen: what the model knows about x_t.
        schedule: the noise schedule.
        t: where x_t is.
        s: where to go.
        draw: gives z; it is not asked if there is no noise to add.
        eta: in [0, 1].
        wide: draw with the variance of q(x_t | x_s), which is (sigma_t / sigma_s)^2 w.
    """
    (a_t, b_t), (a_s, b_s) = kernel(schedule, t), kernel(schedule, s)
    w = b_s**2 * (1 - (a_t * b_s / (a_s * b_t)) ** 2)
    x = a_s * seen.x_0 + max(0.0, b_s**2 - eta**2 * w) ** 0.5 * seen.eps
    spread = eta * max(0.0, w) ** 0.5 * (b_t / b_s if wide and b_s > 0 else 1.0)
    return x + spread * draw.normal() if spread > 0 else x


class DDIM(Sampler):
    """DDIM with eta from 0 (deterministic) to 1 (ancestral); ends in the posterior mean.

        x_s = alpha_s x_0_hat + sqrt(sigma_s^2 - eta^2 w) eps_hat + eta sqrt(w) z

    One network evaluation a step and row, and one more if there is still noise at `stop`. Starts
    in N(0, sigma(start)^2 I), which leaves out alpha(start) x_0: with a schedule that keeps much
    signal, start at 1.

    Args:
        model: the score model.
        steps: how many, at least 1.
        eta: share of the kernel's noise that is drawn anew, in [0, 1].
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
        steps: int = 50,
        eta: float = 0.0,
        grid: Grid = _UNIFORM,
        start: float = 1.0,
        stop: float = 0.0,
    ) -> None:
        positive(steps=steps)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta = {eta} is not in [0, 1]; 0 is DDIM and 1 ancestral sampling.")
        if not start > stop:
            raise ValueError(f"start = {start} is not after stop = {stop}; sampling goes down.")
        self.model, self.shape, self.eta = model, model.shape, eta
        self.times: list[float] = grid(model.schedule, steps, start, stop).tolist()

    def begin(self, draw: Draw) -> Tensor:
        """Noise alone, N(0, sigma(start)^2 I)."""
        return kernel(self.model.schedule, self.times[0])[1] * draw.normal()

    def walk(self, x: Tensor, draw: Draw, condition: Condition | None) -> Iterator[Tensor]:
        """The states at the grid's times after the first, and then the posterior mean."""
        schedule = self.model.schedule
        for t, s in zip(self.times, self.times[1:], strict=False):
            x = hop(predict(self.model, x, t, condition), schedule, t, s, draw, self.eta)
            yield x
        yield from clean(self.model, x, self.times[-1], condition)

    def device(self) -> torch.device:
        """The model's device."""
        return place(self.model)


class Ancestral(DDIM):
    """Ancestral sampling, x_s ~ q(x_s | x_t, x_0_hat): DDIM at eta = 1.

    Ho, Jain and Abbeel, 2020, https://arxiv.org/abs/2006.11239, with the smaller of their two
    variances. Arguments, cost and errors are `DDIM`'s.

    Args:
        model: the score model.
        steps: how many.
        grid: which times.
        start: the first time.
        stop: the last one.
    """

    def __init__(
        self,
        model: ScoreModel,
        *,
        steps: int = 200,
        grid: Grid = _UNIFORM,
        start: float = 1.0,
        stop: float = 0.0,
    ) -> None:
        super().__init__(model, steps=steps, eta=1.0, grid=grid, start=start, stop=stop)


def clean(model: ScoreModel, x: Tensor, t: float, condition: Condition | None) -> Iterator[Tensor]:
    """The posterior mean at the last time, if there is noise to remove."""
    if kernel(model.schedule, t)[1] > 0:
        yield predict(model, x, t, condition).x_0
