"""Several conditions at once: AND with weights above zero, NOT below.

    p = p_n + sum_i w_i (p_i - p_n)

is the score of p(x) prod_i p(c_i | x)^w_i at each noise level, for conditions that are independent
given x. What a sampler makes of it is not that product at t = 0; see `samplers.feynman_kac`.
"""

from collections.abc import Sequence

from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided, finite
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["Compose"]


class Compose(Guided):
    """The conditional model AND others, or NOT others.

        p = p_n + scale (p_c - p_n) + sum_i w_i (p_i - p_n)

    Network evaluations a row: one a condition and 1, in one batched call.

    Liu et al., 2022, https://arxiv.org/abs/2206.01714.

    Args:
        model: the model to guide.
        null: the condition of none.
        others: conditions besides the one that the model is called with, each with its weight.
        scale: of the one that it is called with.

    Raises:
        ValueError: a number that is not finite.
    """

    def __init__(
        self,
        model: ScoreModel,
        null: Condition,
        others: Sequence[tuple[Condition, float]],
        *,
        scale: float,
    ) -> None:
        finite(scale=scale, **{f"weight {i}": w for i, (_, w) in enumerate(others)})
        super().__init__(model, scale=scale, weights=[w for _, w in others])
        self.null, self.others, self.scale = null, tuple(others), scale

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The composed output of the network."""
        weights = [self.scale, *(w for _, w in self.others)]
        conditions = [condition, *(c for c, _ in self.others), self.null]
        return self.model.mix(x_t, level, conditions, [*weights, 1 - sum(weights)])
