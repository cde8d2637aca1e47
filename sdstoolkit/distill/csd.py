"""Classifier score distillation: only what the prompt adds.

    eps_hat(c) - eps_hat() = -sigma grad log p_t(c | x_t)

is the gradient of an implicit classifier; SDS / scale tends to it as the scale grows. It has no
noise of its own to fight. Alone it is unbounded: between two Gaussians of equal spread it is a
constant drift.

What the prompt says nothing about, it leaves as it is: the blotches that many steps leave on a
plain ground stay. A negative prompt that names such faults takes them away. It comes in as the
noise level falls, for only then are they to be seen.

It has no noise to decide with, either. Where a small object goes, SDS settles by the denoised
picture that it pulls to; here every step's noise speaks for another place, and the mean of them is
a faint tint that is gone when the noise level has fallen. So a row keeps its noise for some steps
at first, until what they began is seen in x_t whatever the noise, and later for fewer and fewer.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.distill._memory import Held
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw, condition_of, null_of
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import SigmaSquared, Weight
from sdstoolkit.grids import PowerAnneal
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel, each

__all__ = ["CSD"]

_WEIGHT, _LAW = SigmaSquared(), PowerAnneal(power=0.7, t_max=0.85)


class CSD(Distiller):
    """Classifier score distillation, maybe away from a negative prompt too.

        G = w (scale (eps_hat(c) - eps_hat()) + a (eps_hat() - eps_hat(n))),   a = away progress

    Network evaluations a row: 2, in one batched call; 3 with a negative prompt.

    Yu et al., 2023, https://arxiv.org/abs/2310.19415.

    Args:
        model, weight, t_law, limits: as `Distiller`.
        prompt: what is wanted; needed.
        negative: what to leave, besides; None for nothing.
        null: the prompt that says nothing; None for the prior's, needed for a bare `ScoreModel`.
        scale: a factor on the first difference; Adam does not notice it without a negative prompt.
        away: the factor on the second, to which it rises from 0 along a line, or a function of the
            progress; with 1, as in the paper, the null prompt has no part in the end.
        hold: for how many steps a row keeps its noise at the beginning, at least 1; the paper's
            is new in every step, 1.
        until: the progress by which that number has fallen to 1 along a line, in [0, 1].

    Raises:
        ValueError: there is no prompt, `scale` is zero or not finite, `hold` or `until` is out of
            its range, or as `Distiller`.
    """

    card = Card(
        rows=2,
        paper="Yu et al., 2023",
        link="https://arxiv.org/abs/2310.19415",
        scale=1.0,
        weight="ratio",
        lr=0.07,
        optimizer="sgd",
        decay=0.3,
        bad_at="plain grounds, unless a negative prompt names its blotches; long runs saturate",
    )

    def __init__(
        self,
        model: Prior | ScoreModel,
        prompt: Prompt = None,
        *,
        negative: Prompt = None,
        null: Prompt = None,
        scale: float = 1.0,
        weight: Weight = _WEIGHT,
        t_law: TimeDraw = _LAW,
        limits: Sequence[Limit] = (),
        away: float | Callable[[float], float] = 1.0,
        hold: int = 20,
        until: float = 0.4,
    ) -> None:
        if prompt is None:
            raise ValueError("CSD follows what a prompt adds, but there is none; give one.")
        if scale == 0 or not math.isfinite(scale):
            raise ValueError(f"scale is {scale}, expected a finite factor that is not zero.")
        super().__init__(model, prompt, weight=weight, t_law=t_law, limits=limits)
        self.scale = float(scale)
        self.null = null_of(model, null)
        self.leave = None if negative is None else condition_of(model, negative)
        self.away = away
        self.held = Held(hold, until)

    def noise(self, x_0: State, rng: Sequence[Generator]) -> State:
        """That of the last step while it is held, and else a new one."""
        return self.held(rng, x_0, self.progress, super().noise)

    def state(self) -> dict[str, Tensor]:
        """The noise that is held."""
        return self.held.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from it."""
        self.held.restore(state)

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """The difference of predictions; eps takes no part in it."""
        conditions = [self.condition, self.null]
        if self.leave is None:
            told, untold = each(self.model, x_t, level, conditions)
            return self.scale * (told.eps - untold.eps)
        told, untold, left = each(self.model, x_t, level, [*conditions, self.leave])
        at = self.progress
        away = self.away(at) if callable(self.away) else self.away * at
        return torch.add(
            self.scale * (told.eps - untold.eps), untold.eps - left.eps, alpha=float(away)
        )
