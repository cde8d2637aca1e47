"""Laws whose noised versions are known in closed form, as score models.

If x_0 has such a law and x_t = alpha x_0 + sigma eps, the law tells the posterior means

    E[eps | x_t] = -sigma grad log p_t(x_t),   E[x_0 | x_t] = (x_t - sigma E[eps | x_t]) / alpha,

which is all that a score model has to know. A law computes each as it stands, so that no end of
a schedule divides by zero, and in float64.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from sdstoolkit._typing import Rows
from sdstoolkit.condition import Condition
from sdstoolkit.noise import NoiseLevel, Schedule
from sdstoolkit.prediction import Parameterization
from sdstoolkit.score import ScoreModel

__all__ = ["ExactScore", "Law", "Moments"]


class Moments(NamedTuple):
    """What x_t tells about x_0, in float64.

    Attributes:
        log_prob: log p_t(x_t), [n].
        x_0: E[x_0 | x_t], [n, *shape].
        pull: -grad log p_t(x_t) = E[eps | x_t] / sigma, [n, *shape].
    """

    log_prob: Tensor
    x_0: Tensor
    pull: Tensor


@runtime_checkable
class Law(Protocol):
    """A law of x_0 that answers at every noise level."""

    shape: tuple[int, ...]

    def moments(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, condition: Condition | None
    ) -> Moments:
        """What x_t tells.

        Args:
            x: x_t, [n, *shape].
            alpha: n numbers, of any shape.
            sigma: the same.
            condition: n rows, or None.
        """
        ...


class ExactScore(ScoreModel):
    """The exact score model of a law, eps_hat(x_t, t) = -sigma grad log p_t(x_t).

    There is no network: a call costs what the law's `moments` cost.

    Args:
        law: of x_0; what it makes of a condition is its own affair.
        schedule: the noise schedule.
        parameterization: what `output` means.
    """

    def __init__(self, law: Law, schedule: Schedule, parameterization: Parameterization) -> None:
        super().__init__()
        self.law = law
        self.schedule = schedule
        self.parameterization = parameterization
        self.shape = law.shape

    @property
    def dtype(self) -> torch.dtype | None:
        """None: the state arrives as it is."""
        return None

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The parameterisation's a x_0 + b eps of the exact posterior means."""
        at = self.law.moments(x_t, level.alpha, level.sigma, condition)
        exact = NoiseLevel(level.t, level.alpha.double(), level.sigma.double())
        return self.parameterization.target(at.x_0, exact.sigma * at.pull, exact)

    def log_prob(
        self, x_t: Tensor, t: float | Tensor | NoiseLevel, condition: Condition | None = None
    ) -> Rows:
        """The log density log p_t(x_t), [n]; arguments and errors are `forward`'s."""
        level = self.level(t, x_t)
        if condition is not None:
            condition = condition.expand(len(x_t))
        at = self.law.moments(x_t, level.alpha, level.sigma, condition)
        return at.log_prob.to(x_t.dtype)
