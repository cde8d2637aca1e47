"""CFG-Zero*: guidance of flows with the best multiple of the unconditional velocity.

    s = <v(c), v(n)> / |v(n)|^2,   v = s v(n) + scale (v(c) - s v(n)),   v = 0 at the first steps

An under-fitted flow is wrong by a factor at first, which s corrects and plain guidance enlarges;
to stay where one is, at the very noise, is better than to follow it.
"""

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided, finite, inner
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prediction import Flow
from sdstoolkit.score import ScoreModel

__all__ = ["CFGZero"]


class CFGZero(Guided):
    """Classifier-free guidance of flow models, with a fitted multiple and a start without motion.

        v = s v(n) + scale (v(c) - s v(n)),   0 where t > zero_above

    Network evaluations a row: 2, in one batched call.

    Fan et al., 2025, https://arxiv.org/abs/2503.18886.

    Args:
        model: the model to guide; its output is a velocity.
        null: the condition to guide away from.
        scale: any finite number.
        zero_above: times above which nothing moves, in [0, 1]; 1 for nowhere.

    Raises:
        ValueError: such numbers, or a model that predicts no velocity, of which zero means
            something else.
    """

    def __init__(
        self, model: ScoreModel, null: Condition, *, scale: float, zero_above: float = 1.0
    ) -> None:
        finite(scale=scale)
        if not 0 <= zero_above <= 1:
            raise ValueError(f"zero_above is {zero_above}, expected a time in [0, 1].")
        if not isinstance(model.parameterization, Flow):
            raise ValueError(
                f"CFG-Zero* is for velocities, and this model predicts "
                f"{type(model.parameterization).__name__}; take ClassifierFree."
            )
        super().__init__(model, scale=scale, zero_above=zero_above)
        self.null, self.scale, self.zero_above = null, scale, zero_above

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The guided velocity."""
        told, untold = self.pair(x_t, level, condition, self.null)
        square = inner(untold, untold)
        untold = torch.where(square > 0, inner(told, untold) / square, 1.0) * untold
        v = untold + self.scale * (told - untold)
        return torch.where((level.t > self.zero_above).reshape(square.shape), 0.0, v)
