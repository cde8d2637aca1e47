"""Objectives whose minimiser is a score.

For a field s_theta on clean data, up to a constant the Fisher divergence E|s_theta - s|^2 / 2
(Hyvarinen, 2005, https://www.jmlr.org/papers/v6/hyvarinen05a.html):

    explicit     |s_theta - s|^2 / 2
    Hyvarinen    tr(grad s_theta) + |s_theta|^2 / 2
    sliced       v^T (grad s_theta) v + (v . s_theta)^2 / 2,   v ~ N(0, I)
    denoising    |sigma s_theta(x + sigma eps) + eps|^2 / 2

The first three find the score of p, the last that of p_sigma, the law of x + sigma eps (Vincent,
2011, https://doi.org/10.1162/NECO_a_00142): L_denoising = L_explicit(p_sigma) + const. Note the
sigma before s_theta; without it the minimiser is sigma times the score.

For a score model at all noise levels, with out* = a x_0 + b eps,

    w |out - out*|^2,   |eps_hat - eps|^2 = sigma^2 |s_theta + eps / sigma|^2,   |v_hat - v|^2.

An objective is called with what is trained, a batch and a generator, and returns a number a row,
whose mean is to be minimised.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from sdstoolkit._typing import Rows, State, Times
from sdstoolkit.grids import UniformLogSNR
from sdstoolkit.noise import NoiseLevel, Rectified, Schedule
from sdstoolkit.score import ScoreModel

__all__ = [
    "Continuous",
    "Denoising",
    "Explicit",
    "FlowMatching",
    "Hyvarinen",
    "NoiseConditional",
    "Objective",
    "Sliced",
    "likelihood_weight",
]

Field = Callable[[Tensor], Tensor]
LevelWeight = Callable[[Schedule, Tensor], Tensor]


@runtime_checkable
class Objective(Protocol):
    """What is minimised: objective(model, x_0, rng) returns a number a row, [n]."""

    def __call__(self, model: Any, x_0: Tensor, rng: Generator) -> Tensor:
        """The rows' losses."""
        ...


class Explicit:
    """Explicit score matching, |s_theta(x) - s(x)|^2 / 2, where the score is known.

    Args:
        score: s, [n, *shape] to [n, *shape].
    """

    def __init__(self, score: Field) -> None:
        self.score = score

    def __call__(self, model: Field, x_0: State, rng: Generator) -> Rows:
        """Half the squared distance to the score."""
        return (model(x_0) - self.score(x_0)).square().flatten(1).sum(1) / 2


class Hyvarinen:
    """Implicit score matching, tr(grad s_theta) + |s_theta|^2 / 2; knows no score.

    D + 1 passes for the exact trace, D backward; or 1 + probes by Hutchinson's estimator
    tr(A) = E v^T A v with v of random signs, unbiased, and so are its gradients.

    Args:
        probes: random vectors a row; 0 for the exact trace.

    Raises:
        ValueError: probes is negative.
    """

    def __init__(self, *, probes: int = 0) -> None:
        if probes < 0:
            raise ValueError(f"probes = {probes} is negative; 0 is the exact trace.")
        self.probes = probes

    def __call__(self, model: Field, x_0: State, rng: Generator) -> Rows:
        """The trace of the derivative plus half the square."""
        x, s = _seen(model, x_0)
        if self.probes:
            vectors = [_signs(x, rng) for _ in range(self.probes)]
            trace = sum(_quadratic(s, x, v) for v in vectors) / self.probes
        else:
            one = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
            trace = sum(_quadratic(s, x, e.reshape(x.shape[1:]).expand_as(x)) for e in one)
        return trace + s.square().flatten(1).sum(1) / 2


class Sliced:
    """Sliced score matching, v^T (grad s_theta) v + (v . s_theta)^2 / 2, v ~ N(0, I).

    Song, Garg, Shi and Ermon, 2019, https://arxiv.org/abs/1905.07088. 1 + probes passes.

    Args:
        probes: slices a row, at least 1.
        reduced: take |s_theta|^2 / 2, the mean over v of the last term, for less variance.

    Raises:
        ValueError: probes is below 1.
    """

    def __init__(self, *, probes: int = 1, reduced: bool = False) -> None:
        if probes < 1:
            raise ValueError(f"probes = {probes} is not at least 1.")
        self.probes, self.reduced = probes, reduced

    def __call__(self, model: Field, x_0: State, rng: Generator) -> Rows:
        """The mean over slices."""
        x, s = _seen(model, x_0)
        total = x.new_zeros(len(x))
        for _ in range(self.probes):
            v = _noise(x, rng)
            total = total + _quadratic(s, x, v)
            if not self.reduced:
                total = total + (v * s).flatten(1).sum(1).square() / 2
        total = total / self.probes
        return total + s.square().flatten(1).sum(1) / 2 if self.reduced else total


class Denoising:
    """Denoising score matching at one level, |sigma s_theta(x + sigma eps) + eps|^2 / 2.

    Vincent, 2011. Its minimiser is the score of p_sigma, not of p. One pass.

    Args:
        sigma: above 0.

    Raises:
        ValueError: sigma is not above 0.
    """

    def __init__(self, sigma: float) -> None:
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma = {sigma} is not a finite number above 0.")
        self.sigma = sigma

    def __call__(self, model: Field, x_0: State, rng: Generator) -> Rows:
        """Half the squared error, times sigma^2."""
        eps = _noise(x_0, rng)
        error = self.sigma * model(x_0 + self.sigma * eps) + eps
        return error.square().flatten(1).sum(1) / 2


class NoiseConditional:
    """NCSN's objective, |eps_hat - eps|^2 / D on a geometric ladder of levels.

        sigma_i^2 |s_theta(x + sigma_i eps, sigma_i) + eps / sigma_i|^2,   lambda = sigma^2

    Song and Ermon, 2019, https://arxiv.org/abs/1907.05600. One pass.

    Args:
        levels: how many, evenly in log(sigma / alpha) over the model's schedule, at least 2.
        start: the time of the noisiest, in (0, 1].
        stop: of the cleanest, in [0, start).

    Raises:
        ValueError: levels is below 2, or the times do not descend.
    """

    def __init__(self, levels: int = 10, *, start: float = 1.0, stop: float = 0.0) -> None:
        if levels < 2 or not start > stop:
            raise ValueError(
                f"levels = {levels}, start = {start} and stop = {stop} are no ladder: give two "
                "levels or more, and start above stop."
            )
        self.levels, self.start, self.stop = levels, start, stop

    def __call__(self, model: ScoreModel, x_0: State, rng: Generator) -> Rows:
        """The mean squared error of the noise."""
        ladder = UniformLogSNR()(model.schedule, self.levels - 1, self.start, self.stop)
        t = ladder[torch.randint(self.levels, (len(x_0),), generator=rng)]
        eps = _noise(x_0, rng)
        level = model.level(t, x_0)
        found = model(level.perturb(x_0, eps), level)
        return (found.eps - eps).square().flatten(1).mean(1)


class Continuous:
    """Regression at every noise level, for any schedule and parameterisation.

        w |out - (a x_0 + b eps)|^2 / D,   w = 1 / (a^2 + b^2)

    with t uniform; for the noise, v and score parameterisations that is DDPM's simple loss and its
    likes. With a `weight` lambda(t) it is int lambda |eps_hat - eps|^2 / D dt, and t is drawn with
    a density proportional to lambda and divided by it, which changes no mean and lowers the
    variance. Times are spread evenly over a batch (Kingma et al., 2021,
    https://arxiv.org/abs/2107.00630). One pass.

    Args:
        weight: lambda(schedule, t), positive, for float64 times of any shape; for example
            `likelihood_weight`.
        importance: draw t by the weight, not uniformly.
        t_min: the lower end of the times.
        t_max: the upper end.

    Raises:
        ValueError: not 0 <= t_min < t_max <= 1.
    """

    def __init__(
        self,
        *,
        weight: LevelWeight | None = None,
        importance: bool = True,
        t_min: float = 0.0,
        t_max: float = 1.0,
    ) -> None:
        if not 0 <= t_min < t_max <= 1:
            raise ValueError(f"t_min = {t_min} and t_max = {t_max} are not a range in [0, 1].")
        self.weight, self.importance = weight, importance
        self.t_min, self.t_max = t_min, t_max

    def __call__(self, model: ScoreModel, x_0: State, rng: Generator) -> Rows:
        """The weighted squared error."""
        u = _spread(len(x_0), rng)
        t = self.t_min + (self.t_max - self.t_min) * u
        if self.weight is None:
            level, eps = model.schedule.level(t, x_0), _noise(x_0, rng)
            (out,) = model.outputs(level.perturb(x_0, eps), level, [None])
            a, b = model.parameterization.coefficients(level)
            error = (out - (a * x_0 + b * eps)).square() / (a.square() + b.square())
            return error.flatten(1).mean(1)
        factor = x_0.new_full((len(x_0),), self.t_max - self.t_min)
        if self.importance:
            t, density = self._by_weight(model.schedule, u)
            factor = (1 / density).to(x_0.dtype)
        factor = factor * self.weight(model.schedule, t).to(x_0.dtype)
        eps = _noise(x_0, rng)
        level = model.level(t, x_0)
        found = model(level.perturb(x_0, eps), level)
        return factor.to(x_0.device) * (found.eps - eps).square().flatten(1).mean(1)

    def _by_weight(self, schedule: Schedule, u: Times) -> tuple[Times, Times]:
        """Times with a density that is the weight's, constant on 500 cells, and that density."""
        share = torch.linspace(0, 1, 501, dtype=torch.float64) ** 3
        ends = self.t_min + (self.t_max - self.t_min) * share
        middle, width = (ends[1:] + ends[:-1]) / 2, ends.diff()
        mass = self.weight(schedule, middle) * width if self.weight else width
        if not ((mass > 0) & mass.isfinite()).all():
            raise ValueError(
                f"The weight is not positive and finite between t_min = {self.t_min} and t_max = "
                f"{self.t_max}; choose another range."
            )
        total = torch.cat([mass.new_zeros(1), mass.cumsum(0)]) / mass.sum()
        cell = (torch.searchsorted(total, u, right=True) - 1).clamp(0, len(mass) - 1)
        density = mass[cell] / mass.sum() / width[cell]
        return (ends[cell] + (u - total[cell]) / density).clamp(self.t_min, self.t_max), density


class FlowMatching:
    """Flow matching on the straight path, |v_hat - (eps - x_0)|^2 / D, x_t = (1 - t) x_0 + t eps.

    Lipman et al., 2022, https://arxiv.org/abs/2210.02747; Liu, Gong and Liu, 2022,
    https://arxiv.org/abs/2209.03003. One pass. The model's schedule must be `Rectified`.
    """

    def __call__(self, model: ScoreModel, x_0: State, rng: Generator) -> Rows:
        """The mean squared error of the velocity; ValueError for another schedule."""
        if not isinstance(model.schedule, Rectified):
            raise ValueError(
                f"Flow matching trains on the straight path; the model has "
                f"{type(model.schedule).__name__}, give it Rectified() or use Continuous."
            )
        eps = _noise(x_0, rng)
        level: NoiseLevel = model.level(_spread(len(x_0), rng), x_0)
        found = model(level.perturb(x_0, eps), level)
        return (found.flow - (eps - x_0)).square().flatten(1).mean(1)


def likelihood_weight(schedule: Schedule, t: Tensor) -> Tensor:
    """lambda = g^2 / sigma^2, with which the loss bounds the negative log likelihood.

    Song, Durkan, Murray and Ermon, 2021, https://arxiv.org/abs/2101.09258. It is infinite where
    there is no noise: give `Continuous` a t_min above 0.

    Args:
        schedule: the noise schedule.
        t: times, float64 of any shape.
    """
    return (schedule.diffusion(t) / schedule(t)[1]).square()


def _seen(model: Field, x_0: Tensor) -> tuple[Tensor, Tensor]:
    x = x_0.detach().requires_grad_()
    return x, model(x)


def _quadratic(s: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """v^T (ds / dx) v, [n], differentiable by the parameters."""
    (back,) = torch.autograd.grad(s, x, v, create_graph=True)
    return (back * v).flatten(1).sum(1)


def _noise(like: Tensor, rng: Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng, dtype=like.dtype).to(like.device)


def _signs(like: Tensor, rng: Generator) -> Tensor:
    bits = torch.randint(2, like.shape, generator=rng)
    return (2 * bits - 1).to(like.device, like.dtype)


def _spread(n: int, rng: Generator) -> Tensor:
    """n uniform numbers, one in each n-th of [0, 1) after a common shift."""
    shift = torch.rand((), generator=rng, dtype=torch.float64)
    return (shift + torch.arange(n, dtype=torch.float64) / n) % 1
