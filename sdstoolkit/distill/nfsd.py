"""Noise-free score distillation: the parts of SDS that are not noise.

    eps_hat - eps = (delta_D + delta_N - eps) + scale delta_C,   delta_C = eps_hat(c) - eps_hat()

delta_N is the network's own guess of eps, so that delta_N - eps is noise. delta_D, the pull to the
data, is read off eps_hat() at low noise, where there is hardly any delta_N, and off the difference
to a prompt for bad images at high noise.
"""

from collections.abc import Sequence

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

__all__ = ["NFSD"]

_WEIGHT, _LAW = SigmaSquared(), UniformLaw()


class NFSD(Distiller):
    """Noise-free score distillation.

        G = w (delta_D + scale (eps_hat(c) - eps_hat())),
        delta_D = eps_hat() where t < switch, eps_hat() - eps_hat(n) elsewhere

    Network evaluations a row: 3, in one batched call.

    Katzir, Patashnik, Cohen-Or and Lischinski, 2023, https://arxiv.org/abs/2310.17590, with
    n = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark,
    low-resolution, gloomy".

    Args:
        model, weight, t_law, limits: as `Distiller`.
        prompt: what is wanted; needed.
        negative: n, what a bad image is called; a text for a prior.
        null: the prompt that says nothing; None for the prior's, needed for a bare `ScoreModel`.
        scale: of the guidance.
        switch: the time at which delta_D changes, in [0, 1].

    Raises:
        ValueError: there is no prompt, `switch` is not in [0, 1], or as `Distiller`.
    """

    card = Card(
        rows=3,
        paper="Katzir et al., 2023",
        link="https://arxiv.org/abs/2310.17590",
        scale=7.5,
        bad_at="a model that does not know the words of the negative prompt",
    )

    def __init__(
        self,
        model: Prior | ScoreModel,
        prompt: Prompt = None,
        *,
        negative: Prompt = "blurry, low quality",
        null: Prompt = None,
        scale: float = 1.0,
        weight: Weight = _WEIGHT,
        t_law: TimeDraw = _LAW,
        limits: Sequence[Limit] = (),
        switch: float = 0.2,
    ) -> None:
        if prompt is None:
            raise ValueError("NFSD guides to a prompt, but there is none; give one.")
        if not 0 <= switch <= 1:
            raise ValueError(f"switch is {switch}, expected a time in [0, 1].")
        super().__init__(model, prompt, weight=weight, t_law=t_law, limits=limits)
        self.scale = float(scale)
        self.null = null_of(model, null)
        self.bad = condition_of(model, negative)
        self.switch = switch

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """delta_D + scale delta_C; eps takes no part in it."""
        told, untold, bad = each(self.model, x_t, level, (self.condition, self.null, self.bad))
        late = (level.t < self.switch).reshape(level.sigma.shape)
        domain = untold.eps - torch.where(late, 0.0, bad.eps)
        return domain + self.scale * (told.eps - untold.eps)
