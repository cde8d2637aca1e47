"""Asynchronous score distillation: a prediction at more noise stands for the particles' network.

VSD subtracts what a network fitted to the present images predicts. A pretrained network asked at a
slightly higher noise level behaves alike, and need not be fitted:

    G = w (eps_hat(x_t, t) - eps_hat(x_t', t' , c)),   t' = t + eta (t - t_min),

with one eps for both. On N(m, s^2) it attracts where r > s and repels below; guidance covers that.
"""

from collections.abc import Sequence

from sdstoolkit._typing import State
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import SigmaSquared, Weight
from sdstoolkit.grids import UniformLaw
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel, together

__all__ = ["ASD"]

_WEIGHT, _LAW = SigmaSquared(), UniformLaw()


class ASD(Distiller):
    """Asynchronous score distillation.

        G = w (eps_hat(x_t, t) - eps_hat(x_t', t', c)),   t' = min(t + eta (t - t_min), 1)

    Network evaluations a row: 3, in one batched call. The second term has no guidance.

    Ma et al. (ScaleDreamer), 2024, https://arxiv.org/abs/2407.02040.

    Args:
        model, prompt, negative, weight, t_law, limits: as `Distiller`.
        scale: of the guidance of the first term; not 1, at which low noise repels.
        eta: how much later t' is, at least 0.
        t_min: where it is not later at all, in [0, 1].

    Raises:
        ValueError: `scale` is 1, `eta` negative, `t_min` not in [0, 1], or as `Distiller`.
    """

    card = Card(
        rows=3,
        paper="Ma et al., 2024",
        link="https://arxiv.org/abs/2407.02040",
        scale=7.5,
        bad_at="low noise, where its second term repels; keep t_min up",
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
        eta: float = 0.1,
        t_min: float = 0.02,
    ) -> None:
        if scale == 1:
            raise ValueError("ASD at scale = 1 repels at low noise; give a scale, say 7.5.")
        if not eta >= 0 or not 0 <= t_min <= 1:
            raise ValueError(
                f"eta is {eta} and t_min {t_min}, expected eta >= 0, t_min in [0, 1]."
            )
        super().__init__(
            model,
            prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.eta, self.t_min = eta, t_min

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """The guided prediction at t minus the conditional one at t'."""
        shift = self.eta * (level.t - self.t_min).clamp(min=0)
        later = self.model.schedule.level((level.t + shift).clamp(max=1), x_0)
        told, untold, after = together(
            self.model,
            (x_t, level, self.condition),
            (x_t, level, self.null),
            (later.perturb(x_0, eps), later, self.condition),
        )
        return untold.eps + self.scale * (told.eps - untold.eps) - after.eps
