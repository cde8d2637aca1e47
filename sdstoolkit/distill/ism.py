"""Interval score matching: the noise is that of the image's own path to noise.

x_0 is inverted without a prompt to x_s, one more step leads to x_t, t = s + interval, and

    G = w (eps_hat(x_t, t) - eps_hat(x_s, s, n))
      = w (scale (eps_hat(x_t, c) - eps_hat(x_t, n)) + B),
    B = eps_hat(x_t, t, n) - eps_hat(x_s, s, n),

where B measures how curved the flow is and vanishes with the interval: what is left is classifier
score distillation at a place on the flow. The noise belongs to the image and not to a draw, so
nothing is averaged away.
"""

from collections.abc import Sequence

from sdstoolkit._typing import State
from sdstoolkit.distill._inversion import LOWEST, check_stride, invert
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw, null_of
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import NoiseRatio, Weight
from sdstoolkit.grids import UniformLaw
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prediction import Prediction
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel

__all__ = ["ISM"]

_WEIGHT, _LAW = NoiseRatio(), UniformLaw(t_min=0.02, t_max=0.5)


class ISM(Distiller):
    """Interval score matching.

        G = w (eps_hat(x_t, t) - eps_hat(x_s, s, n)),   s = t - interval,   w = r_t

    Network evaluations a row: ceil(s / stride) for the way up, 1 at s and 2 at t, for the rows of
    a call that have the longest way. Waits for the device once a step.

    Liang et al. (LucidDreamer), 2023, https://arxiv.org/abs/2311.11284.

    Args:
        model, prompt, weight, t_law, limits: as `Distiller`.
        negative: n, in place of the null prompt; a bare `ScoreModel` needs it.
        scale: of the guidance at t.
        interval: t - s, above 0; where t is smaller, s is the lowest time.
        stride: the longest step of the inversion, in (0, 1].

    Raises:
        ValueError: `interval` or `stride` is out of range, or as `Distiller`.
    """

    card = Card(
        rows=(4, 5),
        paper="Liang et al., 2023",
        link="https://arxiv.org/abs/2311.11284",
        scale=7.5,
        bad_at="layout: times above .5 are not drawn; details over-saturate",
    )

    def __init__(
        self,
        model: Prior | ScoreModel,
        prompt: Prompt = None,
        *,
        negative: Prompt = None,
        scale: float = 7.5,
        weight: Weight = _WEIGHT,
        t_law: TimeDraw = _LAW,
        limits: Sequence[Limit] = (),
        interval: float = 0.1,
        stride: float = 0.2,
    ) -> None:
        check_stride(stride)
        if not 0 < interval < 1:
            raise ValueError(f"interval is {interval}, expected a step in t in (0, 1).")
        super().__init__(
            model,
            prompt,
            negative=None if scale == 1 else negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.null = null_of(model, negative)
        self.interval, self.stride = interval, stride

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """The guided prediction at t minus the unconditional one at s; eps takes no part in it."""

        def untold(x: State, at: NoiseLevel) -> Prediction:
            return self.model(x, at, self.null)

        low = level.t.clamp(max=LOWEST)
        below = self.model.level((level.t - self.interval).clamp(min=0).maximum(low), x_0)
        x_s = invert(untold, self.model, x_0, below, stride=self.stride)
        seen = untold(x_s, below)
        return self.guided(level.perturb(seen.x_0, seen.eps), level).eps - seen.eps
