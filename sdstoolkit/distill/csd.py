"""Classifier score distillation: only what the prompt adds.

    eps_hat(c) - eps_hat() = -sigma grad log p_t(c | x_t)

is the gradient of an implicit classifier; SDS / scale tends to it as the scale grows. It has no
noise of its own to fight. Alone it is unbounded: between two Gaussians of equal spread it is a
constant drift.
"""

import math
from collections.abc import Callable, Sequence

import torch

from sdstoolkit._typing import State
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw, condition_of, null_of
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import SigmaSquared, Weight
from sdstoolkit.grids import UniformLaw
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel, each

__all__ = ["CSD"]

_WEIGHT, _LAW = SigmaSquared(), UniformLaw()


class CSD(Distiller):
    """Classifier score distillation, maybe away from a negative prompt too.

        G = w (scale (eps_hat(c) - eps_hat()) + away (eps_hat() - eps_hat(n)))

    Network evaluations a row: 2, in one batched call; 3 with a negative prompt.

    Yu et al., 2023, https://arxiv.org/abs/2310.19415.

    Args:
        model, weight, t_law, limits: as `Distiller`.
        prompt: what is wanted; needed.
        negative: what to leave, besides; None for nothing.
        null: the prompt that says nothing; None for the prior's, needed for a bare `ScoreModel`.
        scale: a factor on the first difference; Adam does not notice it without a negative prompt.
        away: the factor on the second, or a function of the progress; the paper lets it rise from
            0 to 1 and at once withdraws the null prompt.

    Raises:
        ValueError: there is no prompt, `scale` is zero or not finite, or as `Distiller`.
    """

    card = Card(
        rows=2,
        paper="Yu et al., 2023",
        link="https://arxiv.org/abs/2310.19415",
        scale=1.0,
        law="sqrt",
        weight="ratio",
        lr=0.05,
        optimizer="sgd",
        bad_at="small objects, which it may never begin; long runs, which over-saturate",
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
        away: float | Callable[[float], float] = 0.5,
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

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """The difference of predictions; eps takes no part in it."""
        conditions = [self.condition, self.null]
        if self.leave is None:
            told, untold = each(self.model, x_t, level, conditions)
            return self.scale * (told.eps - untold.eps)
        told, untold, left = each(self.model, x_t, level, [*conditions, self.leave])
        away = self.away(self.progress) if callable(self.away) else self.away
        return torch.add(
            self.scale * (told.eps - untold.eps), untold.eps - left.eps, alpha=float(away)
        )
