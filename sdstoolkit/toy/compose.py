"""Densities made of others: tempered, multiplied, negated.

    p^(1/T) has the score s / T,   p q has s_p + s_q,   1 / p^c has -c s.

None of them keeps its normalising constant, and none needs one (Du, Li and Mordatch, 2020,
https://arxiv.org/abs/2004.06030, compose energies so). What is added here are log densities at
noise zero. The noised law of a product is not the product of the noised laws, so that adding the
predictions of diffusion models at t > 0 is another thing (Du et al., 2023,
https://arxiv.org/abs/2302.11552).
"""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sdstoolkit._typing import Matrices, Rows, State
from sdstoolkit.toy.densities import Density

__all__ = ["Negated", "Product", "Scored", "Tempered"]


@runtime_checkable
class Scored(Protocol):
    """A law: what `Mixture` and every `Density` are."""

    shape: tuple[int, ...]

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density, [n], maybe up to a constant."""
        ...

    def score(self, x: Tensor) -> Tensor:
        """Its gradient, [n, *shape]."""
        ...

    def hessian(self, x: Tensor) -> Tensor:
        """Its second derivatives, [n, D, D]."""
        ...


class Product(Density):
    """The product of densities to powers, p(x) ~ prod_i p_i(x)^c_i.

        log p = sum_i c_i log p_i + const,   score = sum_i c_i score_i

    Args:
        laws: one or more, of the same shape.
        powers: c, one a law; 1 by default. A negative one divides.

    Raises:
        ValueError: no laws, laws of different shapes, or not one finite power a law.
    """

    normalised = False

    def __init__(self, *laws: Scored, powers: tuple[float, ...] | None = None) -> None:
        super().__init__()
        powers = (1.0,) * len(laws) if powers is None else powers
        if len({law.shape for law in laws}) != 1:
            shapes = [list(law.shape) for law in laws]
            raise ValueError(f"Laws of the shapes {shapes} have no product; give laws of one.")
        if len(powers) != len(laws) or not all(map(math.isfinite, powers)):
            raise ValueError(f"powers = {powers} are not {len(laws)} finite numbers, one a law.")
        self.laws, self.powers = laws, powers
        self.shape = laws[0].shape

    def value(self, x: Tensor) -> Tensor:
        """The log density at one point."""
        return self.log_prob(x[None])[0]

    def log_prob(self, x: Tensor) -> Rows:
        """sum_i c_i log p_i(x), [n], for x [n, *shape]."""
        self._take(x)
        return self._sum([law.log_prob(x) for law in self.laws])

    def score(self, x: Tensor) -> State:
        """sum_i c_i score_i(x), [n, *shape]."""
        self._take(x)
        return self._sum([law.score(x) for law in self.laws])

    def hessian(self, x: Tensor) -> Matrices:
        """sum_i c_i hessian_i(x), [n, D, D]."""
        self._take(x)
        return self._sum([law.hessian(x) for law in self.laws])

    def _sum(self, values: list[Tensor]) -> Tensor:
        return torch.stack([c * v for c, v in zip(self.powers, values, strict=True)]).sum(0)


class Tempered(Product):
    """A density at another temperature, p_T(x) ~ p(x)^(1 / T): sharper below 1, flatter above.

        score_T = score / T

    Args:
        law: p.
        temperature: T, above 0.

    Raises:
        ValueError: T is not above 0.
    """

    def __init__(self, law: Scored, temperature: float) -> None:
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature = {temperature} is not a finite number above 0.")
        super().__init__(law, powers=(1 / temperature,))
        self.temperature = temperature


class Negated(Product):
    """Away from a density, p(x)^(-c); on its own it has no finite integral.

        score_neg = -c score

    It is there to be multiplied: `Product(wanted, Negated(unwanted, 0.3))`. Whether such a product
    is a density, its `check_normalisable` says; that of two Gaussians is one where
    S_1^-1 - c S_2^-1 is positive definite.

    Args:
        law: p.
        power: c, above 0.

    Raises:
        ValueError: c is not above 0.
    """

    def __init__(self, law: Scored, power: float = 1.0) -> None:
        if not 0 < power < math.inf:
            raise ValueError(f"power = {power} is not a finite number above 0.")
        super().__init__(law, powers=(-power,))
