"""What a network's output means, and what follows from it.

Every parameterisation in use is a combination of the clean state and the noise,

    output = a x_0 + b eps,   x_t = alpha x_0 + sigma eps,

so with det = alpha b - sigma a one 2 x 2 solve converts them all (Salimans and Ho, 2022,
https://arxiv.org/abs/2202.00512; Karras et al., 2022, https://arxiv.org/abs/2206.00364):

    x_0 = (b x_t - sigma output) / det,   eps = (alpha output - a x_t) / det,
    score = -eps / sigma.

The x_0 of a prediction is the posterior mean E[x_0 | x_t] (Tweedie's formula) and its eps is
E[eps | x_t], to the network's accuracy. Neither is clipped.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sdstoolkit.noise import NoiseLevel


@dataclass(frozen=True)
class Prediction:
    """What is known about x_t: x_t = alpha x_0 + sigma eps.

    Attributes:
        x_t: the noisy state, [n, *shape].
        level: its noise level.
        x_0: posterior mean of the clean state, [n, *shape].
        eps: posterior mean of the noise, [n, *shape].
    """

    x_t: Tensor
    level: NoiseLevel
    x_0: Tensor
    eps: Tensor

    @property
    def score(self) -> Tensor:
        """The score grad log p_t(x_t) = -eps / sigma; NaN at sigma = 0."""
        return -self.eps / self.level.sigma

    @property
    def v(self) -> Tensor:
        """The v of Salimans and Ho, alpha eps - sigma x_0."""
        return self.level.alpha * self.eps - self.level.sigma * self.x_0

    @property
    def flow(self) -> Tensor:
        """The velocity of rectified flows, eps - x_0."""
        return self.eps - self.x_0


class Parameterization(ABC):
    """The meaning of a network's output, output = a x_0 + b eps; a new one writes `coefficients`.

    `resolve` and `target` are inverse to each other.

    Attributes:
        everywhere: whether det is zero at no level, so that there is nothing to check.
    """

    everywhere: ClassVar[bool] = False

    @abstractmethod
    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(a, b), shaped as the level's alpha."""

    def check(self, level: NoiseLevel) -> None:
        """Refuse a level at which the output does not determine x_0 and eps (det = 0).

        It reads the level's values, so a level on a device other than the CPU is waited for.

        Raises:
            ValueError: such a level.
        """
        if not self.everywhere:
            self._refuse(level, self._det(level)[2])

    def resolve(self, output: Tensor, x_t: Tensor, level: NoiseLevel) -> Prediction:
        """x_0 and eps from an output: x_0 = (b x_t - sigma output) / det and so on.

        Args:
            output: the network's output, [n, *shape].
            x_t: the noisy state, [n, *shape].
            level: its noise level.

        Raises:
            ValueError: a level at which the output does not determine x_0 and eps (see `check`;
                on another device than the CPU this is left to `ScoreModel.level`, which knows
                the times before they move).
        """
        a, b, det = self._det(level)
        if not self.everywhere and det.device.type == "cpu":
            self._refuse(level, det)
        alpha, sigma = level.alpha, level.sigma
        x_0 = (b / det) * x_t - (sigma / det) * output
        eps = (alpha / det) * output - (a / det) * x_t
        return Prediction(x_t=x_t, level=level, x_0=x_0, eps=eps)

    def target(self, x_0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """What the network should return, a x_0 + b eps; training regresses on it.

        Args:
            x_0: clean state, [n, *shape].
            eps: noise, [n, *shape].
            level: noise level.
        """
        a, b = self.coefficients(level)
        return a * x_0 + b * eps

    def describe(self) -> dict[str, object]:
        """The parameterisation's name and numbers, for a manifest."""
        return {"name": type(self).__name__, **vars(self)}

    def _det(self, level: NoiseLevel) -> tuple[Tensor, Tensor, Tensor]:
        a, b = self.coefficients(level)
        return a, b, level.alpha * b - level.sigma * a

    def _refuse(self, level: NoiseLevel, det: Tensor) -> None:
        one = det / det  # unless det is zero or infinite or NaN
        if float(one.sum()) != one.numel():
            k = int((one.flatten() != 1).nonzero()[0])
            t, alpha, sigma = (v.flatten()[k].item() for v in level)
            raise ValueError(
                f"{type(self).__name__} does not determine x_0 and eps at t = {t:.6g} "
                f"(alpha = {alpha:.3g}, sigma = {sigma:.3g}); stay inside of (0, 1) or use a "
                "network that predicts V or Flow."
            )


@dataclass(frozen=True)
class Epsilon(Parameterization):
    """The network predicts the noise, output = eps; ill-posed at alpha = 0.

    Ho, Jain and Abbeel, 2020, https://arxiv.org/abs/2006.11239.
    """

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(a, b) = (0, 1)."""
        return torch.zeros_like(level.alpha), torch.ones_like(level.alpha)


@dataclass(frozen=True)
class Sample(Parameterization):
    """The network predicts the clean state, output = x_0; ill-posed at sigma = 0."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(a, b) = (1, 0)."""
        return torch.ones_like(level.alpha), torch.zeros_like(level.alpha)


@dataclass(frozen=True)
class V(Parameterization):
    """output = alpha eps - sigma x_0; well-posed everywhere.

    Salimans and Ho, 2022, https://arxiv.org/abs/2202.00512.
    """

    everywhere = True

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(a, b) = (-sigma, alpha)."""
        return -level.sigma, level.alpha


@dataclass(frozen=True)
class Flow(Parameterization):
    """The velocity of rectified flows, output = eps - x_0; well-posed everywhere.

    Liu, Gong and Liu, 2022, https://arxiv.org/abs/2209.03003.
    """

    everywhere = True

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(a, b) = (-1, 1)."""
        one = torch.ones_like(level.alpha)
        return -one, one


@dataclass(frozen=True)
class Score(Parameterization):
    """The network predicts grad log p_t, output = -eps / sigma; ill-posed at alpha, sigma = 0.

    Song and Ermon, 2019, https://arxiv.org/abs/1907.05600.
    """

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(a, b) = (0, -1 / sigma)."""
        return torch.zeros_like(level.alpha), -1 / level.sigma


@dataclass(frozen=True)
class Karras(Parameterization):
    """The preconditioned F of EDM; well-posed everywhere.

        output = s / (sigma_data h) x_0 - sigma_data / h eps,
        s = sigma / alpha,   h = sqrt(s^2 + sigma_data^2)

    equivalently x_0 = (sigma_data^2 x_t / alpha + s sigma_data h output) / h^2, D = c_skip x +
    c_out F in the words of Karras et al., 2022, https://arxiv.org/abs/2206.00364. Checkpoints
    that call it "v" return the opposite sign.

    Args:
        sigma_data: standard deviation of the data, above 0.

    Raises:
        ValueError: sigma_data is not above 0.
    """

    everywhere = True

    sigma_data: float

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data = {self.sigma_data} is not above 0.")

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(a, b) = (s / (sigma_data h), -sigma_data / h)."""
        h = torch.hypot(level.sigma, self.sigma_data * level.alpha)  # the formula's, times alpha
        return level.sigma / (self.sigma_data * h), -self.sigma_data * level.alpha / h
