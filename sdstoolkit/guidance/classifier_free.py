"""Classifier-free guidance: the difference that a condition makes, enlarged.

With c the condition and n the null condition (the empty prompt, or a negative one),

    eps_hat = eps_hat(n) + scale (eps_hat(c) - eps_hat(n)).

The weights scale and 1 - scale sum to one, and every network output is affine in eps_hat at a
given x_t, so it is the outputs that are mixed and no parameterisation has to be known here.
"""

from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided, finite
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["ClassifierFree"]


class ClassifierFree(Guided):
    """A model guided away from a null condition.

        eps_hat = scale eps_hat(c) + (1 - scale) eps_hat(n)

    `scale=1` is the conditional model, `scale=0` the unconditional one. Codes that write
    eps_hat(c) + s (eps_hat(c) - eps_hat(n)) have scale = s + 1.

    Network evaluations a row: 2, in one batched call; 1 at `scale=1` and at `scale=0`.

    Ho and Salimans, 2022, https://arxiv.org/abs/2207.12598.

    Args:
        model: the model to guide.
        null: the condition to guide away from, of one row, or of as many as the batch.
        scale: any finite number; 1 is no guidance.

    Raises:
        ValueError: `scale` is not finite, or `null` is not a `Condition`.
    """

    def __init__(self, model: ScoreModel, null: Condition, *, scale: float) -> None:
        finite(scale=scale)
        super().__init__(model, scale=float(scale))
        self.null = null
        self.scale = float(scale)

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The guided output of the network."""
        conditions, weights = (condition, self.null), (self.scale, 1 - self.scale)
        return self.model.mix(x_t, level, conditions, weights)
