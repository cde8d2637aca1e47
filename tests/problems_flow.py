"""The pinned mixture for the flow: its field written without the library, and a dense reference.

Six Gaussians in the plane: radii (1, .8, 1.2, .9, 1.1, .7) at angles 2 pi k / 6, weights
(k + 1) / 21, standard deviations (.15, .05) along axes turned by .7 k. In x / alpha and
s = sigma / alpha the flow is dx/ds = eps(x, s) whatever the schedule; the reference goes along it
by Runge-Kutta steps of order 4, even in log s.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from problems import table
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.noise import Discrete
from sdstoolkit.toy import Mixture

DRAWS, ROWS = 8, 512
K = torch.arange(6, dtype=torch.float64)
MEANS = torch.tensor([1, 0.8, 1.2, 0.9, 1.1, 0.7], dtype=torch.float64)[:, None] * torch.stack(
    (torch.cos(2 * math.pi * K / 6), torch.sin(2 * math.pi * K / 6)), 1
)
WEIGHTS = (K + 1) / 21
TURN = torch.stack(
    (
        torch.stack((torch.cos(0.7 * K), -torch.sin(0.7 * K)), 1),
        torch.stack((torch.sin(0.7 * K), torch.cos(0.7 * K)), 1),
    ),
    1,
)
SPREAD = torch.tensor([0.15, 0.05], dtype=torch.float64).square()
SCHEDULE = Discrete(table())
LEAST, MOST = (math.sqrt(1 / float(table()[k]) - 1) for k in (0, -1))


def pinned() -> Mixture:
    """The mixture as a density of the library."""
    return Mixture(means=MEANS, covariances=TURN @ torch.diag(SPREAD) @ TURN.mT, weights=WEIGHTS)


def components(*which: int) -> Condition:
    """The condition "one of these components", with the weights that they have."""
    weights = torch.zeros(1, 6, dtype=torch.float64)
    weights[0, list(which)] = WEIGHTS[list(which)] / WEIGHTS[list(which)].sum()
    return Condition({"weights": weights})


def noise(x: Tensor, s: float, weights: Tensor = WEIGHTS) -> Tensor:
    """The exact eps(x, s) in x / alpha, [n, 2]."""
    variance = SPREAD + s * s
    away = torch.einsum("nkd,kde->nke", x[:, None] - MEANS, TURN)
    share = (weights.log() - (away.square() / variance).sum(2) / 2).softmax(1)
    return s * torch.einsum("nk,nke,kde->nd", share, away / variance, TURN)


def follow(x: Tensor, start: float, stop: float, steps: int, weights: Tensor = WEIGHTS) -> Tensor:
    """The dense reference: where x / alpha at start is at stop."""
    places = torch.linspace(
        math.log(start), math.log(stop), steps + 1, dtype=torch.float64
    ).tolist()

    def f(y: Tensor, place: float) -> Tensor:
        return math.exp(place) * noise(y, math.exp(place), weights)

    h = places[1] - places[0]
    for place in places[:-1]:
        a = f(x, place)
        b = f(x + h / 2 * a, place + h / 2)
        c = f(x + h / 2 * b, place + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + f(x + h * c, place + h))
    return x


@dataclass(frozen=True)
class Draws:
    """Eight draws, one after the other in the rows; all in x / alpha.

    Attributes:
        data: points of the mixture with the noise of the first level, [8 * 512, 2].
        latent: where the reference takes them.
        noise: noise of the last level.
        sample: where the reference takes it.
    """

    data: Tensor
    latent: Tensor
    noise: Tensor
    sample: Tensor


@cache
def draws(steps: int = 300) -> Draws:
    """The draws and their references, made once."""
    mixture = pinned()
    data, start = [], []
    for k in range(DRAWS):
        rng = torch.Generator().manual_seed(k)
        eps = torch.randn(2, ROWS, 2, generator=rng, dtype=torch.float64)
        data.append(mixture.sample(ROWS, seed=k, dtype=torch.float64) + LEAST * eps[0])
        start.append(MOST * eps[1])
    data, start = torch.cat(data), torch.cat(start)
    return Draws(data, follow(data, LEAST, MOST, steps), start, follow(start, MOST, LEAST, steps))


def rms(error: Tensor) -> float:
    """The root mean square over a draw's points, the median over the draws."""
    return float(error.square().sum(1).reshape(DRAWS, -1).mean(1).sqrt().median())


def median(error: Tensor) -> float:
    """The median over a draw's points of the error's length, the median over the draws."""
    return float(error.norm(dim=1).reshape(DRAWS, -1).median(1).values.median())
