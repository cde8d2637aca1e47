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

__all__ = [
    "AlphaSigmaSquared",
    "ClippedNoiseRatio",
    "Constant",
    "LogNoiseRatio",
    "MinSNR",
    "NoiseRatio",
    "SigmaSquared",
    "Weight",
]

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


@dataclass(frozen=True)
class NoiseRatio:
    """A power of the noise-to-signal ratio: 1 in ISM and RED-diff, 2 for the divergence itself.

        w = r^power,   r = sigma / alpha

    Mardani et al., 2023, https://arxiv.org/abs/2305.04391.

    Args:
        power: any finite number; with 1 an SDS gradient is x_0 - x_0_hat.
    """

    power: float = 1.0

    def __call__(self, level: NoiseLevel) -> Tensor:
        """One weight a row, shaped as the level's sigma."""
        return level.ratio**self.power


@dataclass(frozen=True)
class LogNoiseRatio:
    """A weight that grows slowly with the noise.

        w = log(1 + r)

    Mardani et al., 2023, https://arxiv.org/abs/2305.04391.
    """

    def __call__(self, level: NoiseLevel) -> Tensor:
        """One weight a row, shaped as the level's sigma."""
        return level.ratio.log1p()


@dataclass(frozen=True)
class ClippedNoiseRatio:
    """The noise-to-signal ratio up to a bound.

        w = min(r, most)

    Mardani et al., 2023, https://arxiv.org/abs/2305.04391.

    Args:
        most: the bound, above 0.
    """

    most: float = 1.0

    def __call__(self, level: NoiseLevel) -> Tensor:
        """One weight a row, shaped as the level's sigma."""
        return level.ratio.clamp(max=self.most)


@dataclass(frozen=True)
class MinSNR:
    """The signal-to-noise ratio up to a bound.

        w = min(1 / r^2, most)

    Hang et al., 2023, https://arxiv.org/abs/2303.09556.

    Args:
        most: the bound, above 0.
    """

    most: float = 5.0

    def __call__(self, level: NoiseLevel) -> Tensor:
        """One weight a row, shaped as the level's sigma."""
        return (level.alpha / level.sigma).square().clamp(max=self.most)
