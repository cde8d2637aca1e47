"""Autoguidance: away from a worse version of the same model.

    p = p_bad + scale (p_good - p_bad),   both under the same condition

The worse one makes the same mistakes, only larger: it is smaller, or less trained. What differs is
quality alone, and variety is kept.
"""

from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided, finite
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["Autoguidance"]


class Autoguidance(Guided):
    """A model guided by a worse one.

        eps_hat = eps_bad(c) + scale (eps_good(c) - eps_bad(c))

    Network evaluations a row: 1 of either.

    Karras et al., 2024, https://arxiv.org/abs/2406.02507.

    Args:
        model: the good one.
        bad: the worse one, with the same schedule and shape; it may predict something else.
        scale: any finite number; 1 is the good model.

    Raises:
        ValueError: `scale` is not finite, or the two differ in shape or schedule.
    """

    def __init__(self, model: ScoreModel, bad: ScoreModel, *, scale: float) -> None:
        finite(scale=scale)
        if tuple(bad.shape) != tuple(model.shape):
            raise ValueError(
                f"The models' shapes {list(model.shape)} and {list(bad.shape)} differ."
            )
        if bad.schedule.describe() != model.schedule.describe():
            raise ValueError("The models have different schedules; the bad one shall share them.")
        super().__init__(model, scale=scale, bad=bad.describe())
        self.bad, self.scale = bad, scale

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The guided output, in the good model's parameterisation."""
        (good,) = self.model.outputs(x_t, level, (condition,))
        if self.scale == 1:
            return good
        (bad,) = self.bad.outputs(x_t, level, (condition,))
        seen = self.bad.parameterization.resolve(bad, x_t, level)
        bad = self.parameterization.target(seen.x_0, seen.eps, level)
        return bad + self.scale * (good - bad)
