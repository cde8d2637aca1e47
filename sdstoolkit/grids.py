"""Which times: grids that a solver visits, and laws that a loss draws from.

A grid places steps + 1 times between start and stop, evenly in some function h of the noise level,

    h(t_i) = h(start) + (i / steps) (h(stop) - h(start)),   i = 0, ..., steps.

Sampling goes down (start > stop) and inversion goes up: a grid has no direction of its own. A
sampler that wants a clean end takes the posterior mean x_0 at the last time; that is its business
and not the grid's. A time law maps u ~ U[0, 1) to t by an inverse distribution function.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from sdstoolkit._typing import AnyTimes, Times
from sdstoolkit.noise import Schedule


class Grid(ABC):
    """Times to visit; a new grid writes `place` only."""

    def __call__(self, schedule: Schedule, steps: int, start: float, stop: float) -> Times:
        """The times, float64 [steps + 1] on the CPU; the ends are exactly start and stop.

        Args:
            schedule: the noise schedule that the times are of.
            steps: how many intervals, at least 1.
            start: the first time, in [0, 1].
            stop: the last time, in [0, 1], another one.

        Raises:
            ValueError: such numbers, or an end where h is infinite.
        """
        if steps < 1:
            raise ValueError(f"steps = {steps} is not at least 1.")
        if not (0 <= start <= 1 and 0 <= stop <= 1 and start != stop):
            raise ValueError(f"start = {start} and stop = {stop} are not two times in [0, 1].")
        ends = torch.tensor([start, stop], dtype=torch.float64)
        times = self.place(schedule, torch.linspace(0, 1, steps + 1, dtype=torch.float64), ends)
        if not times.isfinite().all():
            raise ValueError(
                f"{self} has no place for start = {start} or stop = {stop}, where the noise of "
                f"{type(schedule).__name__} is zero or all there is; stay inside of (0, 1)."
            )
        times[0], times[-1] = ends
        return times

    @abstractmethod
    def place(self, schedule: Schedule, share: Times, ends: AnyTimes) -> Times:
        """The times at shares 0, ..., 1 of the way from ends[0] to ends[1]; NaN if impossible."""


@dataclass(frozen=True)
class UniformTime(Grid):
    """Even in time, h(t) = t."""

    def place(self, schedule: Schedule, share: Times, ends: AnyTimes) -> Times:
        """Even in t."""
        return _line(ends, share)


@dataclass(frozen=True)
class Shifted(Grid):
    """Even in a time from before a shift, t = shift u / (1 + (shift - 1) u).

    A shift above 1 lingers where there is noise, as rectified flows of large images do. Esser et
    al., 2024, https://arxiv.org/abs/2403.03206.

    Args:
        shift: above 0; 1 is `UniformTime`.

    Raises:
        ValueError: it is not.
    """

    shift: float

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ValueError(f"{self} needs shift > 0.")

    def place(self, schedule: Schedule, share: Times, ends: AnyTimes) -> Times:
        """Evenly in u."""
        u = _line(ends / (self.shift - (self.shift - 1) * ends), share)
        return self.shift * u / (1 + (self.shift - 1) * u)


@dataclass(frozen=True)
class UniformLogSNR(Grid):
    """Even in the log signal-to-noise ratio, h = log(alpha^2 / sigma^2).

    Lu et al., 2022, https://arxiv.org/abs/2206.00927. Both ends need signal and noise.
    """

    def place(self, schedule: Schedule, share: Times, ends: AnyTimes) -> Times:
        """Even in log(alpha^2 / sigma^2)."""
        return _at_log_snr(schedule, _line(schedule.log_snr(ends), share))


@dataclass(frozen=True, kw_only=True)
class ClippedLogSNR(Grid):
    """Even in the log-SNR where that is finite, and one step to an end beyond `least` or `most`.

    As `UniformLogSNR`, and the same within the two limits; it takes the ends of every schedule.
    Where there are too few steps for it, it is `NoiseFraction`.

    Args:
        least, most: ratios sigma / alpha between which the steps are even, 0 < least < most.

    Raises:
        ValueError: such limits.
    """

    least: float = 1e-3
    most: float = 200.0

    def __post_init__(self) -> None:
        if not 0 < self.least < self.most < math.inf:
            raise ValueError(f"{self} needs 0 < least < most.")

    def place(self, schedule: Schedule, share: Times, ends: AnyTimes) -> Times:
        """Even in log(alpha^2 / sigma^2) between the limits."""
        wanted = schedule.log_snr(ends)
        inside = wanted.clamp(-2 * math.log(self.most), -2 * math.log(self.least))
        before, after = (wanted != inside).tolist()
        steps = len(share) - 1 - before - after
        if steps < 1 or inside[0] == inside[1]:
            return NoiseFraction().place(schedule, share, ends)
        even = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        middle = _at_log_snr(schedule, _line(inside, even))
        return torch.cat([ends[:1]] * before + [middle] + [ends[1:]] * after)


@dataclass(frozen=True, kw_only=True)
class KarrasRho(Grid):
    """Even in a root of the noise-to-signal ratio, h = (sigma / alpha)^(1 / rho).

    Karras, Aittala, Aila and Laine, 2022, https://arxiv.org/abs/2206.00364. Both ends need signal.

    Args:
        rho: how much denser the small levels are, above 0.

    Raises:
        ValueError: rho is not above 0.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"{self} needs rho > 0.")

    def place(self, schedule: Schedule, share: Times, ends: AnyTimes) -> Times:
        """Even in (sigma / alpha)^(1 / rho)."""
        alpha, sigma = schedule(ends)
        root = _line((sigma / alpha) ** (1 / self.rho), share)
        return _at_log_snr(schedule, -2 * self.rho * root.log())


@dataclass(frozen=True)
class NoiseFraction(Grid):
    """Even in the noise fraction, h = sigma / (alpha + sigma); finite at every end.

    The probability-flow ODE in this variable needs no derivative of the schedule.
    """

    def place(self, schedule: Schedule, share: Times, ends: AnyTimes) -> Times:
        """Even in sigma / (alpha + sigma)."""
        alpha, sigma = schedule(ends)
        noise = _line(sigma / (alpha + sigma), share)
        signal = _line(alpha / (alpha + sigma), share)
        return _at_log_snr(schedule, 2 * (signal.log() - noise.log()))


def _line(ends: AnyTimes, share: Times) -> Times:
    return ends[0] + share * (ends[1] - ends[0])


def _at_log_snr(schedule: Schedule, log_snr: Times) -> Times:
    """The schedule's times, all NaN if an end is NaN."""
    return log_snr if log_snr.isnan().any() else schedule.time(log_snr)


@dataclass(frozen=True, kw_only=True)
class TimeLaw(ABC):
    """The law of a training or distillation time; a new law writes `__call__` only.

    Args:
        t_min, t_max: the range of t, 0 <= t_min <= t_max <= 1.

    Raises:
        ValueError: a reversed range, or one that leaves [0, 1].
    """

    t_min: float = 0.02
    t_max: float = 0.98

    def __post_init__(self) -> None:
        if not 0 <= self.t_min <= self.t_max <= 1:
            raise ValueError(f"{self} needs 0 <= t_min <= t_max <= 1.")

    @abstractmethod
    def __call__(self, u: Times, progress: float) -> Times:
        """The times for uniform numbers.

        Args:
            u: uniform in [0, 1), float64 [n].
            progress: how much of the optimisation is done, in [0, 1].

        Raises:
            ValueError: progress is not in [0, 1].
        """


@dataclass(frozen=True, kw_only=True)
class UniformLaw(TimeLaw):
    """Uniform from t_min to t_max, the law of DreamFusion.

        t = t_min + (t_max - t_min) u

    Poole, Jain, Barron and Mildenhall, 2022, https://arxiv.org/abs/2209.14988.
    """

    def __call__(self, u: Times, progress: float) -> Times:
        """Uniform times, whatever the progress."""
        _check(progress)
        return self.t_min + (self.t_max - self.t_min) * u


@dataclass(frozen=True, kw_only=True)
class TwoStage(TimeLaw):
    """Uniform, and from `switch` on uniform with a lower t_max.

        t = t_min + (t_max - t_min) u,   then   t = t_min + (t_late - t_min) u

    Wang et al. (ProlificDreamer), 2023, https://arxiv.org/abs/2305.16213.

    Args:
        t_min, t_max: the range at first.
        t_late: the upper end later, in [t_min, t_max].
        switch: the progress from which on it holds, in [0, 1].

    Raises:
        ValueError: one of them is out of range.
    """

    t_late: float = 0.5
    switch: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.t_min <= self.t_late <= self.t_max and 0 <= self.switch <= 1):
            raise ValueError(f"{self} needs t_min <= t_late <= t_max and 0 <= switch <= 1.")

    def __call__(self, u: Times, progress: float) -> Times:
        """Uniform times below t_max, later below t_late."""
        _check(progress)
        top = self.t_late if progress >= self.switch else self.t_max
        return self.t_min + (top - self.t_min) * u


@dataclass(frozen=True, kw_only=True)
class PowerAnneal(TimeLaw):
    """One time for all rows, falling as a power of the progress; u has no influence.

        t = t_max - (t_max - t_min) progress^power

    Args:
        t_min, t_max: the range.
        power: above 0; 1 is `LinearAnneal`, 1 / 2 `SqrtAnneal`, and below 1 the fall is fast at
            first.

    Raises:
        ValueError: a number out of its range.
    """

    power: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.power < math.inf:
            raise ValueError(f"{self} needs a finite power above 0.")

    def __call__(self, u: Times, progress: float) -> Times:
        """The time of this progress, for every row."""
        _check(progress)
        return torch.full_like(u, self.t_max - (self.t_max - self.t_min) * progress**self.power)


@dataclass(frozen=True, kw_only=True)
class LinearAnneal(PowerAnneal):
    """One time for all rows, falling linearly; u has no influence.

    t = t_max - (t_max - t_min) progress
    """

    power: float = field(default=1.0, init=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class SqrtAnneal(PowerAnneal):
    """One time for all rows, falling fast at first; u has no influence. HiFA has t_min = 0.3.

        t = t_max - (t_max - t_min) sqrt(progress)

    Zhu and Zhuang, 2023, https://arxiv.org/abs/2305.18766.
    """

    power: float = field(default=0.5, init=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class InverseCDF(TimeLaw):
    """Times of any density, or falling through it.

        t = F^-1(u),   F(t) = int_(t_min)^t W / int_(t_min)^(t_max) W
        t = F^-1(1 - progress)   if it anneals, one time for all rows

    F is exact for the polygon through W at 1025 even times.

    Args:
        t_min, t_max: the range.
        density: W, times [k] -> numbers [k] that are not negative; None for DreamTime's.
        anneal: fall with the progress instead of drawing.

    Raises:
        ValueError: a density that is negative, not finite or zero everywhere.
    """

    density: Callable[[Times], Times] | None = None
    anneal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        t = torch.linspace(self.t_min, self.t_max, 1025, dtype=torch.float64)
        w = (self.density or DreamTime.weight)(t)
        if w.shape != t.shape or not (w.isfinite().all() and (w >= 0).all() and w.sum() > 0):
            raise ValueError(f"The density of {type(self).__name__} is no density on its times.")
        object.__setattr__(self, "_table", (t, w.double(), _cumulative(t, w.double())))

    def __call__(self, u: Times, progress: float) -> Times:
        """Times drawn by u, or the time of this progress for every row."""
        _check(progress)
        t, w, F = self._table  # type: ignore[attr-defined]
        wanted = torch.full_like(u, 1 - progress) if self.anneal else u
        cell = (torch.searchsorted(F, wanted.cpu(), right=True) - 1).clamp(0, len(t) - 2)
        rest = (wanted.cpu() - F[cell]) * F.new_tensor(_area(t, w))
        width, slope = t[1] - t[0], (w[cell + 1] - w[cell]) / (t[1] - t[0])
        # the area under a line, w h + slope h^2 / 2 = rest, by the formula without cancellation
        root = (w[cell].square() + 2 * slope * rest).clamp(min=0).sqrt()
        h = torch.where(rest > 0, 2 * rest / (w[cell] + root), 0.0).clamp(max=width)
        return (t[cell] + h).to(u)


@dataclass(frozen=True, kw_only=True)
class DreamTime(InverseCDF):
    """Falling times that linger where the details are made.

        t = F^-1(1 - progress),   W = exp(-(t - m_1)^2 / (2 s_1^2)) above m_1, 1 between,
                                      exp(-(t - m_2)^2 / (2 s_2^2)) below m_2

    with m_1 = .8, m_2 = .5, s_1 = .3, s_2 = .1. Huang et al., 2023,
    https://arxiv.org/abs/2306.12422.
    """

    anneal: bool = True

    @staticmethod
    def weight(t: Times) -> Times:
        """W at times of any shape."""
        return torch.exp(-((t - t.clamp(0.5, 0.8)) / torch.where(t > 0.8, 0.3, 0.1)).square() / 2)


def _area(t: Times, w: Times) -> float:
    return float(torch.trapezoid(w, t))


def _cumulative(t: Times, w: Times) -> Times:
    """F at the times of the table, from 0 to 1."""
    F = torch.cat([t.new_zeros(1), torch.cumulative_trapezoid(w, t)]) / _area(t, w)
    F[-1] = 1
    return F


def _check(progress: float) -> None:
    if not 0 <= progress <= 1:
        raise ValueError(f"progress = {progress} is not in [0, 1].")
