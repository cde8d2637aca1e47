"""The weight w of a distillation gradient w(t) (eps_hat - eps), one number a row.

With r = sigma / alpha and an exact score, the expected gradient of weight w descends

    E_t  w r KL(q(x_t | x_0) || p_t),

so that a weight says which noise levels count. Any callable that takes a `NoiseLevel` and returns
a tensor shaped as its sigma is one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdstoolkit.noise import NoiseLevel

__all__ = ["AlphaSigmaSquared", "Constant", "SigmaSquared", "Weight"]

Weight = Callable[[NoiseLevel], Tensor]


@dataclass(frozen=True)
class SigmaSquared:
    """DreamFusion's weight: high noise counts, low noise does not.

        w = sigma^2

    Poole, Jain, Barron and Mildenhall, 2022, https://arxiv.org/abs/2209.14988.
    """

    def __call__(self, level: NoiseLevel) -> Tensor:
        """One weight a row, shaped as the level's sigma."""
        return level.sigma.square()


@dataclass(frozen=True)
class AlphaSigmaSquared:
    """Latent-NeRF's weight: both ends of the noise count less.

        w = alpha sigma^2

    Metzer et al., 2022, https://arxiv.org/abs/2211.07600.
    """

    def __call__(self, level: NoiseLevel) -> Tensor:
        """One weight a row, shaped as the level's sigma."""
        return level.alpha * level.sigma.square()


@dataclass(frozen=True)
class Constant:
    """The same weight at every noise level.

        w = value

    Args:
        value: any finite number.
    """

    value: float = 1.0

    def __call__(self, level: NoiseLevel) -> Tensor:
        """One weight a row, shaped as the level's sigma."""
        return torch.full_like(level.sigma, self.value)
