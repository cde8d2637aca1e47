"""Perp-Neg: negative prompts that cannot take back what the prompt asks for.

    p = p_n + scale (d + sum_i w_i (d_i - <d_i, d> / |d|^2 d)),   d = p_c - p_n,   d_i = p_i - p_n

Of every negative direction only the part across the positive one counts; w_i < 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided, finite, inner
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["PerpNeg"]


class PerpNeg(Guided):
    """Classifier-free guidance with negative prompts across the positive one.

        p = p_n + scale (d + sum_i w_i (d_i - <d_i, d> / |d|^2 d))

    Network evaluations a row: 2 and one a negative prompt, in one batched call.

    Armandpour et al., 2023, https://arxiv.org/abs/2304.04968.

    Args:
        model: the model to guide.
        null: the condition to guide away from.
        negatives: conditions to leave, each with its weight, below 0.
        scale: any finite number.

    Raises:
        ValueError: such numbers, or no negative condition.
    """

    def __init__(
        self,
        model: ScoreModel,
        null: Condition,
        negatives: Sequence[tuple[Condition, float]],
        *,
        scale: float,
    ) -> None:
        finite(scale=scale, **{f"weight {i}": w for i, (_, w) in enumerate(negatives)})
        if not negatives:
            raise ValueError("There is no negative condition; take ClassifierFree.")
        super().__init__(model, scale=scale, weights=[w for _, w in negatives])
        self.null, self.negatives, self.scale = null, tuple(negatives), scale

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The guided output of the network."""
        conditions = (condition, self.null, *(c for c, _ in self.negatives))
        told, untold, *others = self.model.outputs(x_t, level, conditions)
        d = told - untold
        square = inner(d, d)
        total = d
        for other, (_, weight) in zip(others, self.negatives, strict=True):
            d_i = other - untold
            along = torch.where(square > 0, inner(d_i, d) / square, 0.0) * d
            total = total + weight * (d_i - along)
        return untold + self.scale * total
