"""Densities with exact scores that are not Gaussian, and densities made of others.

    score(x) = grad log p(x),   hessian(x) = grad grad^T log p(x)

A law is anything with `shape`, `log_prob`, `score` and `hessian`; `Mixture` and `Gaussian` are
laws too. Where a law is known only up to a constant, its log_prob is log p + const, and its score
is exact all the same: the constant has no gradient. Everything is computed in float64 and
returned in the argument's dtype.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sdstoolkit._typing import Matrices, Rows, State
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Schedule
from sdstoolkit.prediction import Epsilon, Parameterization
from sdstoolkit.rng import generators
from sdstoolkit.toy.exact import ExactScore, Moments

__all__ = ["Density", "Energy", "Laplace", "LogProb", "StudentT", "log_prob_along"]


class Density(nn.Module, ABC):
    """A density on R^shape; a new one writes `value` only.

    The rest follows by automatic differentiation, batched by vmap, unless a subclass has a closed
    form.

    Attributes:
        shape: of one sample.
        normalised: whether `log_prob` is log p itself and not log p + const.
    """

    shape: tuple[int, ...]
    normalised: bool = True

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """The log density at one point, a scalar for x [*shape] in float64."""

    def log_prob(self, x: Tensor) -> Rows:
        """The log density, maybe up to a constant: one number a row, for x [n, *shape].

        Raises:
            ValueError: x has another shape, or a value is not finite.
        """
        found = torch.func.vmap(self.value)(self._take(x))
        return _finite("log_prob", found, x).to(x.dtype)

    def score(self, x: Tensor) -> State:
        """The score grad log p(x), for x [n, *shape]; errors as `log_prob`."""
        found = torch.func.vmap(torch.func.grad(self.value))(self._take(x))
        return _finite("score", found, x).to(x.dtype)

    def hessian(self, x: Tensor) -> Matrices:
        """The second derivatives of log p(x), [n, D, D], for x [n, *shape]; errors as `log_prob`.

        D backward passes a row.
        """
        D = math.prod(self.shape)
        found = torch.func.vmap(torch.func.hessian(self.value))(self._take(x))
        return _finite("hessian", found.reshape(len(x), D, D), x).to(x.dtype)

    def check_normalisable(self, *, radius: float = 1e6, directions: int = 64) -> None:
        """Refuse a law whose tails do not fall fast enough to have a finite integral.

        p is integrable if d log p / d log r < -D far out, on every ray. That is looked at on
        random rays, so that passing is evidence and failing is nearly proof.

        Args:
            radius: how far out to look; far beyond the law's own scale.
            directions: how many rays.

        Raises:
            ValueError: the slope on some ray is not below -D.
        """
        D = math.prod(self.shape)
        rng = torch.Generator().manual_seed(0)
        ray = torch.randn((directions, D), generator=rng, dtype=torch.float64)
        x = (radius * ray / ray.norm(dim=1, keepdim=True)).reshape(-1, *self.shape)
        slope = (x * self.score(x)).flatten(1).sum(1).max()
        if not slope < -D:
            raise ValueError(
                f"{type(self).__name__} has no finite integral: at radius {radius:g} its log "
                f"density changes by {slope:.4g} for each factor of e outwards, and {D} "
                f"dimensions need less than -{D}."
            )

    def _take(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"x has shape {list(x.shape)}; {type(self).__name__} takes "
                f"[n, {', '.join(map(str, self.shape))}]."
            )
        return x.double()


class Laplace(Density):
    """Independent Laplace laws, p(x) = prod_i exp(-|x_i - mu_i| / b) / (2 b).

    The score is -sign(x - mu) / b. It jumps at the kink x_i = mu_i, where there is no derivative;
    0, the middle of the jump, is returned. The Hessian is 0 beside the kink, and the kink's mass
    -2 p / b is not in it, so that E[hessian] = -E[score score^T] does not hold.

    Smoothed by a Gaussian the law is smooth; with the scale a = alpha b and z = x - alpha mu,

        p_t(x) = e^(sigma^2/(2 a^2)) / (2 a) [e^(-z/a) Phi(z/sigma - sigma/a) + same at -z].

    Args:
        mean: mu, [D].
        scale: b, above 0.

    Raises:
        ValueError: scale is not above 0, or mean is not a list.
    """

    mean: Tensor

    def __init__(self, mean: Sequence[float] | Tensor, scale: float = 1.0) -> None:
        super().__init__()
        mu = torch.as_tensor(mean, dtype=torch.float64)
        if mu.ndim != 1 or not 0 < scale < math.inf:
            raise ValueError(f"mean {list(mu.shape)} and scale = {scale} are not [D] and above 0.")
        self.register_buffer("mean", mu)
        self.scale = float(scale)
        self.shape = tuple(mu.shape)

    def value(self, x: Tensor) -> Tensor:
        """The log density at one point."""
        return (-(x - self.mean).abs() / self.scale - math.log(2 * self.scale)).sum()

    def score(self, x: Tensor) -> State:
        """The score -sign(x - mu) / b, 0 at the kink."""
        return (-(self._take(x) - self.mean).sign() / self.scale).to(x.dtype)

    def sample(self, n: int, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> State:
        """Draws, [n, D]; the seed names the whole set."""
        (rng,) = generators([seed], "laplace")
        u = torch.rand((n, *self.shape), generator=rng, dtype=torch.float64) - 0.5
        return (self.mean - self.scale * u.sign() * torch.log1p(-2 * u.abs())).to(dtype)

    def under(
        self, schedule: Schedule, parameterization: Parameterization | None = None
    ) -> ExactScore:
        """The exact score model under a schedule, where there is signal and noise: inside (0, 1).

        Args:
            schedule: the noise schedule.
            parameterization: what its `output` means; Epsilon by default.
        """
        return ExactScore(self, schedule, parameterization or Epsilon())

    def moments(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, condition: Condition | None = None
    ) -> Moments:
        """What x_t tells; arguments as `Law.moments`.

        Raises:
            ValueError: alpha or sigma is 0, or there is a condition.
        """
        _unconditional(self, condition)
        alpha, sigma = (v.double().reshape(-1, 1) for v in (alpha, sigma))
        if not ((alpha > 0) & (sigma > 0)).all():
            raise ValueError("Laplace is noised in closed form where alpha and sigma are above 0.")
        z, a = self._take(x) - alpha * self.mean, alpha * self.scale
        sides = torch.stack(
            [-s * z / a + torch.special.log_ndtr(s * z / sigma - sigma / a) for s in (1, -1)]
        )
        both = sides.logsumexp(0)
        log_prob = (both + sigma**2 / (2 * a**2) - (2 * a).log()).sum(1)
        right, left = (sides - both).exp()
        pull = (right - left) / a
        return Moments(log_prob, (x.double() - sigma**2 * pull) / alpha, pull)


class StudentT(Density):
    """The multivariate Student law of df degrees of freedom, with heavy tails.

        p(x) ~ (1 + m / df)^(-(df + D) / 2),   m = |x - mu|^2 / scale^2,
        score = -(df + D) (x - mu) / (scale^2 (df + m)),

    which rises to its largest and then falls towards 0: far out, a small score is a bad sign.

    Args:
        df: degrees of freedom, above 0; the covariance df / (df - 2) scale^2 I exists above 2.
        mean: mu, [D].
        scale: above 0.

    Raises:
        ValueError: numbers out of range.
    """

    mean: Tensor

    def __init__(self, df: float, mean: Sequence[float] | Tensor, scale: float = 1.0) -> None:
        super().__init__()
        mu = torch.as_tensor(mean, dtype=torch.float64)
        if mu.ndim != 1 or not (0 < scale < math.inf and 0 < df < math.inf):
            raise ValueError(
                f"mean {list(mu.shape)}, df = {df} and scale = {scale} are not [D] and two "
                "numbers above 0."
            )
        self.register_buffer("mean", mu)
        self.df, self.scale = float(df), float(scale)
        self.shape = tuple(mu.shape)

    def value(self, x: Tensor) -> Tensor:
        """The log density at one point."""
        D, df = len(self.mean), self.df
        m = (x - self.mean).square().sum() / self.scale**2
        constant = math.lgamma((df + D) / 2) - math.lgamma(df / 2)
        constant -= D / 2 * math.log(df * math.pi * self.scale**2)
        return constant - (df + D) / 2 * torch.log1p(m / df)

    def score(self, x: Tensor) -> State:
        """The score -(df + D) (x - mu) / (scale^2 (df + m))."""
        away = (self._take(x) - self.mean) / self.scale
        share = (self.df + len(self.mean)) / (self.df + away.square().sum(1, keepdim=True))
        return (-share * away / self.scale).to(x.dtype)

    def sample(self, n: int, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> State:
        """Draws, [n, D]: a Gaussian over the root of chi^2 / df; the seed names the whole set."""
        (rng,) = generators([seed], "student")
        z = torch.randn((n, *self.shape), generator=rng, dtype=torch.float64)
        half = torch.full((n, 1), self.df / 2, dtype=torch.float64)
        chi = 2 * torch._standard_gamma(half, generator=rng)
        return (self.mean + self.scale * z * (self.df / chi).sqrt()).to(dtype)


class LogProb(Density):
    """A density given by a function, log p(x) = f(x) + const.

    Args:
        function: f, of one point [*shape] in float64 to a scalar, written in torch; `score` and
            `hessian` are its derivatives.
        shape: of one point.
        normalised: whether f is log p itself.

    Raises:
        ValueError: shape is not a list of sizes.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        shape: Sequence[int],
        *,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        if not shape or any(size < 1 for size in shape):
            raise ValueError(f"shape is {list(shape)}, expected the positive sizes of one point.")
        self.function, self.shape, self.normalised = function, tuple(shape), normalised

    def value(self, x: Tensor) -> Tensor:
        """The function at one point."""
        return self.function(x)


class Energy(LogProb):
    """A density given by an energy, p(x) = exp(-E(x)) / Z; Z is never needed.

        score(x) = -grad E(x)

    Args:
        energy: E, of one point [*shape] in float64 to a scalar, written in torch.
        shape: of one point.
    """

    def __init__(self, energy: Callable[[Tensor], Tensor], shape: Sequence[int]) -> None:
        super().__init__(energy, shape)

    def value(self, x: Tensor) -> Tensor:
        """Minus the energy at one point."""
        return -self.function(x)


def log_prob_along(
    score: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, *, nodes: int = 64
) -> Rows:
    """The log density recovered from a score, up to its value at `start`.

        log p(x) - log p(a) = int_0^1 score(a + u (x - a)) . (x - a) du

    by Gauss and Legendre's rule on each straight line. `nodes` score evaluations a row, one batch
    a node. The score of a network is in general no gradient, and then the result depends on the
    path.

    Args:
        score: a field, [n, *shape] to [n, *shape].
        x: where to, [n, *shape].
        start: a, [*shape].
        nodes: points on a line, at least 1.

    Raises:
        ValueError: start is not one point of x's shape, or nodes is below 1.
    """
    import numpy as np

    if start.shape != x.shape[1:] or nodes < 1:
        raise ValueError(
            f"start {list(start.shape)} and nodes = {nodes} are not one point of "
            f"{list(x.shape[1:])} and at least 1."
        )
    places, weights = np.polynomial.legendre.leggauss(nodes)
    way, total = x - start, x.new_zeros(len(x))
    for u, w in zip((1 + places) / 2, weights / 2, strict=True):
        total = total + float(w) * (score(start + float(u) * way) * way).flatten(1).sum(1)
    return total


def _finite(name: str, found: Tensor, x: Tensor) -> Tensor:
    bad = ~found.flatten(1).isfinite().all(1) if found.ndim > 1 else ~found.isfinite()
    if bad.any():
        k = int(bad.nonzero()[0])
        at = ", ".join(f"{v:.4g}" for v in x[k].flatten()[:4].tolist())
        more = "" if x[k].numel() <= 4 else ", ..."
        raise ValueError(
            f"{name} is not finite in {int(bad.sum())} of {len(x)} rows, first in row {k} at "
            f"x = ({at}{more}); a density must be positive and finite wherever it is asked."
        )
    return found


def _unconditional(law: object, condition: Condition | None) -> None:
    if condition:
        raise ValueError(f"{type(law).__name__} takes no condition; {condition} was given.")
