"""The law of a set of points under a Gaussian blur: any data set with an exact score.

    p(x) = 1/m sum_j N(x; y_j, h^2 I)

is a mixture of m components that share one variance, so that its posterior means are averages of
the points themselves,

    rho_j = softmax_j(-|x_t - alpha y_j|^2 / (2 v)),   v = alpha^2 h^2 + sigma^2,
    -grad log p_t = (x_t - alpha ybar) / v,   ybar = sum_j rho_j y_j,
    E[x_0 | x_t] = ybar + alpha h^2 (x_t - alpha ybar) / v.

It is also what a diffusion model that has learnt its training set by heart would answer.
"""

import math

import torch
from torch import Tensor, nn

from sdstoolkit._typing import Matrices, Rows, State
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Schedule
from sdstoolkit.prediction import Epsilon, Parameterization
from sdstoolkit.rng import generators
from sdstoolkit.toy.exact import ExactScore, Moments

__all__ = ["Empirical"]


class Empirical(nn.Module):
    """The smoothed empirical law of points, p(x) = 1/m sum_j N(x; y_j, h^2 I).

    Everything is computed in float64, m D multiplications a row, and returned in the argument's
    dtype.

    Args:
        points: y, [m, *shape].
        std: h, above 0.

    Raises:
        ValueError: there is no point, one is not finite, or std is not above 0.
    """

    points: Tensor
    normalised = True

    def __init__(self, points: Tensor, std: float) -> None:
        super().__init__()
        if points.ndim < 2 or not len(points) or not points.isfinite().all():
            raise ValueError(
                f"points of shape {list(points.shape)} are not [m, *shape] finite numbers."
            )
        if not 0 < std < math.inf:
            raise ValueError(f"std = {std} is not a finite number above 0.")
        self.register_buffer("points", points.detach().double().flatten(1))
        self.std = float(std)
        self.shape = tuple(points.shape[1:])

    def log_prob(self, x: Tensor) -> Rows:
        """The log density log p(x), [n], for x [n, *shape]."""
        return self._at(x).log_prob.to(x.dtype)

    def score(self, x: Tensor) -> State:
        """The score grad log p(x), for x [n, *shape]."""
        return -self._at(x).pull.to(x.dtype)

    def hessian(self, x: Tensor) -> Matrices:
        """The second derivatives of log p(x), [n, D, D]: (Cov_rho[y] / h^2 - I) / h^2."""
        flat = x.double().flatten(1)
        share = self._joint(flat, x.new_ones(1), x.new_zeros(1)).softmax(1)
        mean = share @ self.points
        square = torch.einsum("nm,md,me->nde", share, self.points, self.points)
        spread = square - mean[:, :, None] * mean[:, None, :]
        one = torch.eye(flat.shape[1], dtype=torch.float64, device=x.device)
        return ((spread / self.std**2 - one) / self.std**2).to(x.dtype)

    def sample(self, n: int, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> State:
        """Draws, [n, *shape]; the seed names the whole set."""
        (rng,) = generators([seed], "empirical")
        j = torch.randint(len(self.points), (n,), generator=rng)
        z = torch.randn((n, self.points.shape[1]), generator=rng, dtype=torch.float64)
        x = self.points[j.to(self.points.device)] + self.std * z.to(self.points.device)
        return x.reshape(n, *self.shape).to(dtype)

    def under(
        self, schedule: Schedule, parameterization: Parameterization | None = None
    ) -> ExactScore:
        """The exact score model under a schedule.

        Args:
            schedule: the noise schedule.
            parameterization: what its `output` means; Epsilon by default.
        """
        return ExactScore(self, schedule, parameterization or Epsilon())

    def moments(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, condition: Condition | None = None
    ) -> Moments:
        """What x_t tells; arguments as `Law.moments`.

        Raises:
            ValueError: there is a condition.
        """
        if condition:
            raise ValueError(f"Empirical takes no condition; {condition} was given.")
        alpha, sigma = (v.double().reshape(-1, 1) for v in (alpha, sigma))
        flat, (m, D) = x.double().flatten(1), self.points.shape
        joint = self._joint(flat, alpha, sigma)
        log_sum = joint.logsumexp(1, keepdim=True)
        mean = (joint - log_sum).exp() @ self.points
        variance = (alpha * self.std) ** 2 + sigma**2
        pull = (flat - alpha * mean) / variance
        log_prob = log_sum - math.log(m) - D / 2 * (2 * math.pi * variance).log()
        x_0 = mean + alpha * self.std**2 * pull
        return Moments(log_prob[:, 0], x_0.reshape(x.shape), pull.reshape(x.shape))

    def _at(self, x: Tensor) -> Moments:
        return self.moments(x, x.new_ones(1), x.new_zeros(1))

    def _joint(self, flat: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """-|x - alpha y_j|^2 / (2 v), [n, m]; from differences, for squares would lose digits."""
        variance = (alpha.double() * self.std) ** 2 + sigma.double() ** 2
        squares = flat.new_zeros(len(flat), len(self.points))
        for d in range(flat.shape[1]):
            squares += (flat[:, d, None] - alpha * self.points[None, :, d]).square()
        return -squares / (2 * variance)
