"""Closed forms, written without the library, that the tests hold it against.

A table of alpha-bars, mixtures of Gaussians by dense linear algebra, and differential equations
with known solutions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal


def table(steps: int = 1000) -> Tensor:
    """Stable Diffusion's alpha-bars, betas scaled linearly from .00085 to .012."""
    root = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64)
    return (1 - root**2).cumprod(0)


def zero_terminal_table(steps: int = 1000) -> Tensor:
    """The same, its square roots shifted and scaled so that the last is 0 and the first stays."""
    root = table(steps).sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


@dataclass(frozen=True)
class Truth:
    """A mixture of K Gaussians in D dimensions, by dense inverses, one after the other."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def log_prob(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """The log density log p_t(x), [n], by torch.distributions."""
        return self._joint(x, alpha, sigma).logsumexp(1)

    def x_0(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x_0 | x_t = x] by conditioning the joint Gaussian of (x_0, x_t)."""
        share = self._joint(x, alpha, sigma).softmax(1)
        parts = []
        for mu, S in zip(self.means, self.covariances, strict=True):
            V = alpha**2 * S + sigma**2 * torch.eye(len(mu), dtype=x.dtype)
            parts.append(mu + (x - alpha * mu) @ torch.linalg.inv(V) @ (alpha * S))
        return (share[:, :, None] * torch.stack(parts, 1)).sum(1)

    def _joint(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        parts = []
        for w, mu, S in zip(self.weights, self.means, self.covariances, strict=True):
            V = alpha**2 * S + sigma**2 * torch.eye(len(mu), dtype=x.dtype)
            parts.append(w.log() + MultivariateNormal(alpha * mu, V).log_prob(x))
        return torch.stack(parts, 1)


def _truth(weights: list[float], means: list[list[float]], covariances: list) -> Truth:
    return Truth(*(torch.tensor(v, dtype=torch.float64) for v in (weights, means, covariances)))


MIXTURES = {
    "line": _truth([0.8, 0.2], [[-0.6], [0.9]], [[[0.25**2]], [[0.12**2]]]),
    "plane": _truth(
        [0.2, 0.5, 0.3],
        [[-1.0, 0.5], [1.5, 1.0], [0.0, -1.2]],
        [[[0.3, 0.1], [0.1, 0.2]], [[0.05, -0.03], [-0.03, 0.4]], [[0.6, 0.5], [0.5, 0.6]]],
    ),
    "space": _truth(
        [0.4, 0.6],
        [[0.3, -0.2, 0.8, -1.0, 0.0], [-0.5, 0.6, 0.1, 0.9, -0.4]],
        [
            [[1.0 if i == j else 0.3 ** abs(i - j) for j in range(5)] for i in range(5)],
            [[0.2 * (i + 1) if i == j else 0.02 for j in range(5)] for i in range(5)],
        ],
    ),
}


@dataclass(frozen=True)
class Problem:
    """dy/ds = f(y, s) with the solution exact(s) from start to stop."""

    f: Callable[[Tensor, float], Tensor]
    exact: Callable[[float], Tensor]
    start: float
    stop: float


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


ODES = {
    "decay": Problem(lambda y, s: -y, lambda s: _vector(math.exp(-s)), 0.0, 2.0),
    "oscillator": Problem(
        lambda y, s: torch.stack((y[1], -y[0])),
        lambda s: _vector(math.sin(s), math.cos(s)),
        0.0,
        3.0,
    ),
    "logistic": Problem(
        lambda y, s: y * (1 - y), lambda s: _vector(1 / (1 + math.exp(-s))), -2.0, 1.0
    ),
    "forced": Problem(
        lambda y, s: -2 * s * y + math.cos(s) + 2 * s * math.sin(s),
        lambda s: _vector(math.sin(s) + math.exp(-s * s)),
        0.0,
        1.5,
    ),
}


def slope(sizes: list[float], errors: list[float]) -> float:
    """The exponent p in error ~ size^p, by least squares in the logarithms."""
    x = torch.tensor(sizes, dtype=torch.float64).log()
    y = torch.tensor(errors, dtype=torch.float64).log()
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())
