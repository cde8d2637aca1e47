"""What happens to a gradient w R before a canvas feels it; any loss takes a list of these.

    G  <-  limit(G, what was seen)

They act on the gradient by x_0, before the encoder's Jacobian: to clip the gradient by the
canvas's parameters is another method.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sdstoolkit.noise import NoiseLevel

__all__ = ["Clip", "Limit", "Normalise", "Seen", "UnitNorm"]


class Seen(NamedTuple):
    """What a limit may look at.

    Attributes:
        x_0: what is optimised, [n, *shape].
        level: the noise level, a time a row.
        residual: R, [n, *shape].
        progress: how much of the optimisation is over, in [0, 1].
        x_0_hat: the guided posterior mean, if the method has one.
    """

    x_0: Tensor
    level: NoiseLevel
    residual: Tensor
    progress: float
    x_0_hat: Tensor | None


Limit = Callable[[Tensor, Seen], Tensor]


@dataclass(frozen=True)
class Clip:
    """Score debiasing: every element of the gradient is clipped, less and less.

        G <- clip(G, -c, c),   c = first + (last - first) progress

    Hong, Ahn and Kim, 2023, https://arxiv.org/abs/2303.15413, with 2 to 8 for latents and 0.5 to 2
    for pixels.

    Args:
        first, last: the bound at the beginning and at the end, above 0; infinity for none.

    Raises:
        ValueError: a bound that is not above 0.
    """

    first: float = 2.0
    last: float = 8.0

    def __post_init__(self) -> None:
        if not (self.first > 0 and self.last > 0):
            raise ValueError(f"{self} needs bounds above 0.")

    def __call__(self, gradient: Tensor, seen: Seen) -> Tensor:
        """The clipped gradient, [n, *shape]."""
        if math.inf in (self.first, self.last):
            bound = math.inf
        else:
            bound = self.first + (self.last - self.first) * seen.progress
        return gradient.clamp(-bound, bound)


@dataclass(frozen=True)
class Normalise:
    """The normaliser of distribution matching distillation, which makes the scale of R irrelevant.

        G <- G / mean |x_0 - x_0_hat|,   a mean a row

    With `NoiseRatio` as weight it is DMD's gradient, (x_0 - x_0_hat) / mean |x_0 - x_0_hat| where
    R = eps_hat - eps. A method without a guided x_0_hat takes x_0 - r R for it.

    Yin et al., 2023, https://arxiv.org/abs/2311.18828.
    """

    def __call__(self, gradient: Tensor, seen: Seen) -> Tensor:
        """The normalised gradient, [n, *shape]; rows whose divisor is zero stay as they are."""
        away = seen.level.ratio * seen.residual
        if seen.x_0_hat is not None:
            away = seen.x_0 - seen.x_0_hat
        return _divide(gradient, away.abs().flatten(1).mean(1))


@dataclass(frozen=True)
class UnitNorm:
    """The direction alone.

        G <- G / ||G||,   a norm a row

    Yu et al., 2023, https://arxiv.org/abs/2310.19415, offer it for classifier scores.
    """

    def __call__(self, gradient: Tensor, seen: Seen) -> Tensor:
        """The normalised gradient, [n, *shape]; a row of zeros stays one."""
        return _divide(gradient, torch.linalg.vector_norm(gradient.flatten(1), dim=1))


def _divide(gradient: Tensor, by: Tensor) -> Tensor:
    by = by.reshape(-1, *(1,) * (gradient.ndim - 1))
    return torch.where(by > 0, gradient / by, gradient)
