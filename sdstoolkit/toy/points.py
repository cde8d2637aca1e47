"""Point sets in the plane with a shape that the eye can judge.

Each is a draw from a law on a curve or on tiles, of zero mean and a spread of about one; the
seed names the whole set. Such a law has no density on the plane. Smoothed by a Gaussian, the
empirical law of the points has one, and its score is exact:

    p(x) = 1/m sum_j N(x; y_j, h^2 I),   `Empirical(moons(2000), std=0.1)`.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from sdstoolkit._typing import Points
from sdstoolkit.rng import generators

__all__ = ["POINTS", "checkerboard", "moons", "ring", "spirals", "swiss_roll"]


def ring(n: int, seed: int = 0, *, radius: float = 1.5, width: float = 0.0) -> Points:
    """Points of a circle, x = (r cos a, r sin a) with r = radius + width z, [n, 2].

    Args:
        n: how many, at least 1.
        seed: names the set.
        radius: of the circle, above 0.
        width: standard deviation across the line, at least 0.

    Raises:
        ValueError: n is below 1.
    """
    rng = _rng(n, seed, "ring")
    a = _unit(n, rng) * 2 * math.pi
    r = radius + width * _gauss(n, rng)
    return torch.stack([r * a.cos(), r * a.sin()], 1)


def moons(n: int, seed: int = 0, *, width: float = 0.0) -> Points:
    """Points of two half circles, one inside the bend of the other, [n, 2].

    Arguments and errors are `ring`'s.
    """
    rng = _rng(n, seed, "moons")
    a = _unit(n, rng) * math.pi
    upper = (_unit(n, rng) < 0.5).double() * 2 - 1
    x = torch.stack([upper * a.cos() - upper / 2, upper * (a.sin() - 0.25)], 1) * 1.4
    return x + width * torch.stack([_gauss(n, rng), _gauss(n, rng)], 1)


def checkerboard(n: int, seed: int = 0) -> Points:
    """Points spread evenly over the eight dark squares of a board of 4 x 4, [n, 2].

    The board is [-2, 2]^2. Arguments and errors are `ring`'s.
    """
    rng = _rng(n, seed, "checkerboard")
    row = torch.randint(4, (n,), generator=rng)
    column = 2 * torch.randint(2, (n,), generator=rng) + row % 2
    corner = torch.stack([column, row], 1).double() - 2
    return corner + torch.stack([_unit(n, rng), _unit(n, rng)], 1)


def swiss_roll(n: int, seed: int = 0, *, width: float = 0.0) -> Points:
    """Points of a spiral r = a / 7, a from 1.5 pi to 4.5 pi, moved to a mean of zero, [n, 2].

    Arguments and errors are `ring`'s.
    """
    rng = _rng(n, seed, "swiss roll")
    a = 1.5 * math.pi * (1 + 2 * _unit(n, rng))
    x = torch.stack([a * a.cos() - 2, a * a.sin() - 2 / (3 * math.pi)], 1) / 7
    return x + width * torch.stack([_gauss(n, rng), _gauss(n, rng)], 1)


def spirals(n: int, seed: int = 0, *, width: float = 0.0) -> Points:
    """Points of two spirals, each the other turned by half a circle, [n, 2].

    Arguments and errors are `ring`'s.
    """
    rng = _rng(n, seed, "spirals")
    a = 3 * math.pi * _unit(n, rng).sqrt()
    side = (_unit(n, rng) < 0.5).double() * 2 - 1
    x = (side * a / 4)[:, None] * torch.stack([a.cos(), a.sin()], 1)
    return x + width * torch.stack([_gauss(n, rng), _gauss(n, rng)], 1)


POINTS: dict[str, Callable[[int, int], Tensor]] = {
    "checkerboard": checkerboard,
    "moons": moons,
    "ring": ring,
    "spirals": spirals,
    "swiss-roll": swiss_roll,
}


def _rng(n: int, seed: int, purpose: str) -> Generator:
    if n < 1:
        raise ValueError(f"n = {n} points were asked for; ask for at least 1.")
    return generators([seed], purpose)[0]


def _unit(n: int, rng: Generator) -> Tensor:
    return torch.rand(n, generator=rng, dtype=torch.float64)


def _gauss(n: int, rng: Generator) -> Tensor:
    return torch.randn(n, generator=rng, dtype=torch.float64)
