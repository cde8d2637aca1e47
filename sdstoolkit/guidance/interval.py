"""Guidance in an interval of noise levels only.

    scale(t) = scale where low < sigma / alpha <= high,   1 elsewhere

At high noise guidance costs variety, at low noise it does nothing; both ends are spared it.
"""

from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided, finite
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["Interval"]


class Interval(Guided):
    """Classifier-free guidance where low < sigma / alpha <= high.

        eps_hat = eps_hat(n) + scale(t) (eps_hat(c) - eps_hat(n))

    Network evaluations a row: 2 where a row of the call is inside, 1 where none is. It waits for
    the device at every call, to know.

    Kynkaanniemi et al., 2024, https://arxiv.org/abs/2404.07724.

    Args:
        model: the model to guide.
        null: the condition to guide away from.
        scale: inside, any finite number.
        low, high: noise-to-signal ratios, 0 <= low < high.

    Raises:
        ValueError: such numbers.
    """

    def __init__(
        self, model: ScoreModel, null: Condition, *, scale: float, low: float, high: float
    ) -> None:
        finite(scale=scale)
        if not 0 <= low < high:
            raise ValueError(f"low is {low} and high {high}, expected 0 <= low < high.")
        super().__init__(model, scale=scale, low=low, high=high)
        self.null, self.scale, self.low, self.high = null, scale, low, high

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The network's output, guided inside."""
        inside = (level.sigma > self.low * level.alpha) & (level.sigma <= self.high * level.alpha)
        if self.scale == 1 or not bool(inside.any()):
            (told,) = self.model.outputs(x_t, level, (condition,))
            return told
        told, untold = self.pair(x_t, level, condition, self.null)
        return told + inside * (self.scale - 1) * (told - untold)
