"""What guidance by a measurement shares: y = A x_0 + sigma_y n, and the way to its gradient.

With x_0_hat(x_t) and its Jacobian J, a guided model returns the posterior mean under the prior and
the measurement,

    E[x_0 | x_t, y] = x_0_hat + sigma^2 / alpha grad_(x_t) log p(y | x_t).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided, move
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.operators import Operator
from sdstoolkit.score import ScoreModel

__all__ = ["Measured"]


class Measured(Guided):
    """A model guided by a linear measurement; a new one writes `change`.

    Args:
        model: the prior, guided or not.
        operator: A.
        y: what was measured, [1 or n, ...], in the range of A x_0.
        sigma_y: the measurement's noise, in the units of x_0, at least 0.

    Raises:
        ValueError: a negative or infinite `sigma_y`.
    """

    def __init__(
        self,
        model: ScoreModel,
        operator: Operator,
        y: Tensor,
        *,
        sigma_y: float = 0.0,
        **numbers: object,
    ) -> None:
        if not 0 <= sigma_y < float("inf"):
            raise ValueError(f"sigma_y is {sigma_y}, expected a finite number of at least 0.")
        operator_name = type(operator).__name__
        super().__init__(model, operator=operator_name, sigma_y=sigma_y, **numbers)
        self.operator, self.sigma_y = operator, sigma_y
        self.register_buffer("y", y.detach(), persistent=False)

    y: Tensor

    def change(self, x_0: Tensor, level: NoiseLevel, pull: Callable[[Tensor], Tensor]) -> Tensor:
        """What the measurement changes x_0_hat by.

        Args:
            x_0: x_0_hat, without a graph.
            level: the noise level, with signal and noise.
            pull: v -> J^T v, at the cost of one way back each.
        """
        raise NotImplementedError

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The output that belongs to the posterior mean."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            (output,) = self.model.outputs(x, level, (condition,))
            x_0 = self.parameterization.resolve(output, x, level).x_0

        def pull(v: Tensor) -> Tensor:
            return torch.autograd.grad(x_0, x, v.detach(), retain_graph=True)[0]

        change = self.change(x_0.detach(), level, pull)
        return move(self, output.detach(), level, change)

    def misfit(self, x_0: Tensor) -> Tensor:
        """y - A x_0."""
        return self.y.to(x_0) - self.operator(x_0)
