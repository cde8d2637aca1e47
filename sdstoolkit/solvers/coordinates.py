"""Coordinates in which the flow is an ordinary differential equation without a beta in it.

    y = x / scale(alpha, sigma),   dy / ds = slope

| coordinate | s | scale | dy/ds | finite at |
|---|---|---|---|---|
| `Ratio` | sigma / alpha | alpha | eps_hat | alpha > 0 |
| `LogRatio` | log(sigma / alpha) | alpha | (sigma / alpha) eps_hat | alpha, sigma > 0 |
| `Fraction` | sigma / (alpha + sigma) | alpha + sigma | eps_hat - x_0_hat | everywhere |

All three are the same flow. A method of higher order gives different numbers in each, Euler's
gives the same in `Ratio` and `Fraction` (Song, Meng and Ermon, 2021,
https://arxiv.org/abs/2010.02502).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdstoolkit.noise import Schedule
from sdstoolkit.prediction import Prediction
from sdstoolkit.solvers.base import Field, Node

__all__ = ["Coordinate", "Fraction", "LogRatio", "Ratio", "choose", "slope"]


class Coordinate(ABC):
    """A scale of the state and a variable; numbers and tensors alike."""

    @abstractmethod
    def place(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The variable s, float64 of any shape."""

    @abstractmethod
    def log_snr(self, place: Tensor) -> Tensor:
        """The log(alpha^2 / sigma^2) at s, float64 of any shape."""

    @abstractmethod
    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What x is divided by."""

    @abstractmethod
    def slope(self, prediction: Prediction) -> Tensor:
        """dy/ds."""

    def at(self, node: Node) -> tuple[float, float]:
        """The (place, scale) of a node."""
        alpha, sigma = torch.tensor(node[1:], dtype=torch.float64)
        return float(self.place(alpha, sigma)), float(self.scale(alpha, sigma))

    def time(self, schedule: Schedule, place: float | Tensor) -> Tensor:
        """When a schedule is at a place, float64, of the shape of place."""
        return schedule.time(self.log_snr(torch.as_tensor(place, dtype=torch.float64)))


@dataclass(frozen=True)
class Ratio(Coordinate):
    """y = x / alpha by s = sigma / alpha."""

    def place(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The noise-to-signal ratio."""
        return sigma / alpha

    def log_snr(self, place: Tensor) -> Tensor:
        """-2 log(s)."""
        return -2 * place.log()

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Alpha."""
        return alpha

    def slope(self, prediction: Prediction) -> Tensor:
        """The noise."""
        return prediction.eps


@dataclass(frozen=True)
class LogRatio(Coordinate):
    """y = x / alpha by s = log(sigma / alpha)."""

    def place(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The logarithm of the noise-to-signal ratio."""
        return sigma.log() - alpha.log()

    def log_snr(self, place: Tensor) -> Tensor:
        """-2 s."""
        return -2 * place

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Alpha."""
        return alpha

    def slope(self, prediction: Prediction) -> Tensor:
        """The noise as it is in y."""
        return prediction.level.ratio * prediction.eps


@dataclass(frozen=True)
class Fraction(Coordinate):
    """y = x / (alpha + sigma) by s = sigma / (alpha + sigma); rectified flow's own."""

    def place(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The noise fraction."""
        return sigma / (alpha + sigma)

    def log_snr(self, place: Tensor) -> Tensor:
        """2 log((1 - s) / s)."""
        return 2 * ((1 - place).log() - place.log())

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Alpha + sigma."""
        return alpha + sigma

    def slope(self, prediction: Prediction) -> Tensor:
        """The velocity."""
        return prediction.flow


def choose(given: Coordinate | None, preferred: Coordinate, nodes: Sequence[Node]) -> Coordinate:
    """The coordinate to use between nodes: the given one, or the preferred where it is finite.

    Args:
        given: what the user asked for; None leaves the choice.
        preferred: the better one; `Fraction` takes its place where it is infinite.
        nodes: where it has to be finite.

    Raises:
        ValueError: the given one is infinite at a node.
    """
    coordinate = given or preferred
    bad = [node.t for node in (nodes[0], nodes[-1]) if not _finite(coordinate, node)]
    if bad and given is not None:
        raise ValueError(
            f"{given} is infinite at t = {bad[0]:.6g}; use Fraction() or stay inside of (0, 1)."
        )
    return Fraction() if bad else coordinate


def slope(coordinate: Coordinate, field: Field) -> Callable[[Tensor, float | Tensor], Tensor]:
    """The field in a coordinate, f(y, s) = dy/ds; s is one place for all rows or one a row."""

    def f(y: Tensor, place: float | Tensor) -> Tensor:
        level = field.level(coordinate.time(field.schedule, place), y)
        x = coordinate.scale(level.alpha, level.sigma) * y
        return coordinate.slope(field(x, level))

    return f


def _finite(coordinate: Coordinate, node: Node) -> bool:
    place, scale = coordinate.at(node)
    return bool(torch.tensor(place).isfinite()) and scale > 0
