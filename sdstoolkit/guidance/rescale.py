"""Guidance with the spread of the conditional prediction.

    p = p_n + scale (p_c - p_n),   p <- share p std(p_c) / std(p) + (1 - share) p

A large scale makes the prediction's spread too large, which shows as over-exposure; a deviation a
row takes it back.
"""

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided, finite
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["Rescale"]


class Rescale(Guided):
    """Classifier-free guidance whose deviation is led back to the conditional one's.

        p <- share p std(p_c) / std(p) + (1 - share) p,   p the network's output

    Network evaluations a row: 2, in one batched call.

    Lin et al., 2023, https://arxiv.org/abs/2305.08891.

    Args:
        model: the model to guide; its output is what is rescaled, as in the paper.
        null: the condition to guide away from.
        scale: any finite number.
        share: how much of it, in [0, 1].

    Raises:
        ValueError: such numbers.
    """

    def __init__(
        self, model: ScoreModel, null: Condition, *, scale: float, share: float = 0.7
    ) -> None:
        finite(scale=scale)
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}, expected a number in [0, 1].")
        super().__init__(model, scale=scale, share=share)
        self.null, self.scale, self.share = null, scale, share

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The rescaled output of the network."""
        told, untold = self.pair(x_t, level, condition, self.null)
        p = torch.lerp(untold, told, self.scale)
        by = (_deviation(told) / _deviation(p)).reshape(-1, *(1,) * (p.ndim - 1))
        return p * (1 + self.share * (by - 1))


def _deviation(x: Tensor) -> Tensor:
    return x.flatten(1).std(1)
