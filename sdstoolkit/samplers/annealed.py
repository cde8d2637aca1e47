"""Annealed Langevin dynamics: Langevin steps at falling noise levels.

With y = x_t / alpha, whose noise level is sigma_i = sigma / alpha, and the score of y's law,
s = -eps_hat / sigma_i, the steps at level i are

    y <- y + a_i s + sqrt(2 a_i) z,   a_i = r sigma_i^2,

the same for every schedule. The relative step r is what a rule chooses. On a level whose law is
N(0, sigma_i^2 I) the chain's variance tends to sigma_i^2 / (1 - r / 2). Noise of the size sigma_i
instead of sqrt(2) sigma_i at r = 1, as some notes have it, would tend to V / (2 - sigma_i^2 / V)
where the level's variance is V: too small, unless the data is one point.

- Song and Ermon, 2019 (https://arxiv.org/abs/1907.05600) print x + (a/2) s + sqrt(a) z with
  a_i = epsilon sigma_i^2 / sigma_L^2, that is r = epsilon / (2 sigma_L^2). Their code does
  x + a s + sqrt(2 a) z with the same epsilon, r = epsilon / sigma_L^2; at its epsilon = 2e-5 and
  sigma_L = 0.01, r = 0.2 and a level is 11 % too hot.
- Song and Ermon, 2020 (https://arxiv.org/abs/2006.09011) choose r so that the variance that a
  level starts with, gamma^2 sigma_i^2, is at the end as near to sigma_i^2 as it gets:

    s_T^2 / sigma_i^2 = (1 - r)^(2T) (gamma^2 - c) + c,   c = 1 / (1 - r / 2).

  That is the smallest r that brings noise alone to the next level. The weights of the data's modes
  settle while sigma_i is about their distance, at the rate r (sigma_i / distance)^2 a step: with
  r T near 1 a level they lag behind, and modes of 0.3 and 0.7 come out at 0.32 and 0.68. A larger
  r, `Fixed(0.2)`, with twice the steps mends it, as predictor steps between the levels do.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.grids import UniformLogSNR
from sdstoolkit.noise import Schedule
from sdstoolkit.samplers._walk import Draw, Sampler, place, positive, predict
from sdstoolkit.score import ScoreModel

__all__ = ["NCSN", "NCSNv2", "AnnealedLangevin", "Fixed", "level_variance"]

Rule = Callable[[Sequence[float], int], float]


def level_variance(r: float, gamma: float, steps: int) -> float:
    """How hot a level ends: s_T^2 / sigma_i^2 = (1 - r)^(2T) (gamma^2 - c) + c, c = 1 / (1 - r/2).

    Args:
        r: the relative step a_i / sigma_i^2, in (0, 2).
        gamma: sigma_(i-1) / sigma_i, the ratio that the level starts with.
        steps: T.

    Raises:
        ValueError: r is not in (0, 2), where the steps are stable.
    """
    _stable(r)
    c = 1 / (1 - r / 2)
    return (1 - r) ** (2 * steps) * (gamma**2 - c) + c


@dataclass(frozen=True, kw_only=True)
class NCSN:
    """The rule of NCSN as its code has it, r = epsilon / sigma_L^2; twice what the paper prints.

    Args:
        epsilon: above 0, in the units of sigma^2.
    """

    epsilon: float = 2e-5

    def __call__(self, ladder: Sequence[float], steps: int) -> float:
        """The relative step r of a ladder of sigmas; ValueError if it is not stable."""
        return _stable(self.epsilon / ladder[-1] ** 2)


@dataclass(frozen=True)
class NCSNv2:
    """The rule of NCSNv2: the r whose levels end least hot; epsilon = r sigma_L^2."""

    def __call__(self, ladder: Sequence[float], steps: int) -> float:
        """The relative step r of a ladder of sigmas, from its largest ratio."""
        gamma = max(a / b for a, b in zip(ladder, ladder[1:], strict=False))
        grid = [10 ** (-6 + 6 * k / 600) for k in range(600)]
        best = min(range(600), key=lambda k: level_variance(grid[k], gamma, steps))
        low, high = grid[max(0, best - 1)], grid[min(599, best + 1)]
        for _ in range(80):  # the variance has one minimum in between
            a, b = low + (high - low) / 3, high - (high - low) / 3
            if level_variance(a, gamma, steps) < level_variance(b, gamma, steps):
                high = b
            else:
                low = a
        return (low + high) / 2


@dataclass(frozen=True)
class Fixed:
    """The relative step r as it is given, whatever the ladder.

    Args:
        r: a_i / sigma_i^2, in (0, 2); from 0.5 on a level of noise alone is a third too hot.
    """

    r: float = 0.2

    def __call__(self, ladder: Sequence[float], steps: int) -> float:
        """r; ValueError if it is not stable."""
        return _stable(self.r)


_V2 = NCSNv2()


class AnnealedLangevin(Sampler):
    """Annealed Langevin dynamics on any score model; ends in the posterior mean.

        y <- y + r sigma_i^2 s(y) + sqrt(2 r) sigma_i z,   y = x_t / alpha

    levels x steps + 1 network evaluations a row. The states are y, in the scale of x_0, one a
    level. Starts in N(0, sigma_1^2 I).

    Args:
        model: the score model.
        levels: how many noise levels, evenly in log(sigma / alpha) from `start` to `stop`; or the
            falling ratios sigma / alpha themselves.
        steps: Langevin steps at each level, at least 1.
        rule: chooses r from the ladder and steps; `NCSNv2()`, `NCSN(epsilon=...)` or `Fixed(r)`.
        start: the first time, in (0, 1], where there must be some signal; by default 1, or where
            sigma / alpha is 1000 if the schedule goes beyond that.
        stop: the last one, in [0, start), where there must be some noise; by default 0, or where
            sigma / alpha is 0.002 if the schedule goes below that.

    Raises:
        ValueError: numbers out of range, a ladder that does not descend or leaves the schedule,
            or a rule whose steps are unstable.
    """

    def __init__(
        self,
        model: ScoreModel,
        *,
        levels: int | Sequence[float] = 40,
        steps: int = 20,
        rule: Rule = _V2,
        start: float | None = None,
        stop: float | None = None,
    ) -> None:
        positive(steps=steps)
        self.model, self.shape, self.count = model, model.shape, steps
        if isinstance(levels, int):
            if levels < 2:
                raise ValueError(f"levels = {levels} is not at least 2.")
            high, low = _ends(model.schedule)
            start, stop = high if start is None else start, low if stop is None else stop
            if not start > stop:
                raise ValueError(f"start = {start} is not after stop = {stop}; noise must fall.")
            times = UniformLogSNR()(model.schedule, levels - 1, start, stop)
        else:
            sigmas = torch.tensor(list(levels), dtype=torch.float64)
            falls = sigmas.ndim == 1 and len(sigmas) > 1 and bool((sigmas.diff() < 0).all())
            if not falls or not sigmas[-1] > 0:
                raise ValueError(f"levels = {list(levels)} do not descend to a number above 0.")
            times = model.schedule.time(-2 * sigmas.log())
        alpha, sigma = model.schedule(times)
        self.times: list[float] = times.tolist()
        self.alphas: list[float] = alpha.tolist()
        self.ladder: list[float] = (sigma / alpha).tolist()
        self.step = _stable(rule(self.ladder, steps))

    def begin(self, draw: Draw) -> Tensor:
        """Noise of the first level, N(0, sigma_1^2 I)."""
        return self.ladder[0] * draw.normal()

    def walk(self, x: Tensor, draw: Draw, condition: Condition | None) -> Iterator[Tensor]:
        """The state after each level, and then the posterior mean."""
        r = self.step
        for t, alpha, sigma in zip(self.times, self.alphas, self.ladder, strict=True):
            for _ in range(self.count):
                eps = predict(self.model, alpha * x, t, condition).eps
                x = x - r * sigma * eps + math.sqrt(2 * r) * sigma * draw.normal()
            yield x
        yield predict(self.model, self.alphas[-1] * x, self.times[-1], condition).x_0

    def device(self) -> torch.device:
        """The model's device."""
        return place(self.model)


def _ends(schedule: Schedule) -> tuple[float, float]:
    """The times from and to which a ladder goes by itself."""
    wanted = torch.tensor([1000.0, 0.002], dtype=torch.float64)
    high, low = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    first, last = (-2 * wanted.log()).tolist()
    start = 1.0 if high >= first else float(schedule.time(first))
    return start, 0.0 if low <= last else float(schedule.time(last))


def _stable(r: float) -> float:
    if not 0 < r < 2:
        raise ValueError(
            f"The relative step is {r:.4g} times sigma^2; Langevin steps on a level are stable "
            "between 0 and 2: take a smaller epsilon."
        )
    return r
