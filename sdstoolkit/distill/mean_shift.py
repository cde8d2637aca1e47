"""Mean-shift distillation: ascent to the modes of the smoothed density, without noise.

    G = x_0 - E[x' | x_0],   x' ~ p(x') N(x'; x_0, lambda^2) normalised,

so that -G / lambda^2 = grad log (p * N(0, lambda^2))(x_0): the mean-shift step of Fukunaga and
Hostetler with the data's density for samples. That posterior is the one of a noisy observation x_0
at the level r = lambda, and so its mean is the network's own x_0_hat(alpha x_0), of the image that
is not noised. A trained network has not seen such inputs; drawing x' by ancestral sampling from
there is the other way to the same mean.
"""

from collections.abc import Sequence

from sdstoolkit._typing import State
from sdstoolkit.distill._inversion import LOWEST
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import NoiseRatio, Weight
from sdstoolkit.grids import LinearAnneal
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.rng import normal
from sdstoolkit.score import ScoreModel

__all__ = ["MeanShift"]

_WEIGHT, _LAW = NoiseRatio(), LinearAnneal()


class MeanShift(Distiller):
    """Mean-shift distillation; the bandwidth is the level's noise-to-signal ratio.

        G = w (x_0 - E[x' | x_0]) / lambda,   w = lambda = r

    Network evaluations a row: 2, in one batched call; with `steps` 2 for each of them, and 2.
    Half of it at `scale=1`.

    Thamizharasan et al., 2025, https://arxiv.org/abs/2502.15989.

    Args:
        model, prompt, negative, scale, weight, t_law, limits: as `Distiller`.
        steps: of ancestral sampling for one draw of x' instead of its mean, at least 0.

    Raises:
        ValueError: `steps` is negative, or as `Distiller`.
    """

    card = Card(
        rows=2,
        paper="Thamizharasan et al., 2025",
        link="https://arxiv.org/abs/2502.15989",
        scale=7.5,
        bad_at="trained networks without `steps`: they are asked about images without noise",
    )

    def __init__(
        self,
        model: Prior | ScoreModel,
        prompt: Prompt = None,
        *,
        negative: Prompt = None,
        scale: float = 1.0,
        weight: Weight = _WEIGHT,
        t_law: TimeDraw = _LAW,
        limits: Sequence[Limit] = (),
        steps: int = 0,
    ) -> None:
        if steps < 0:
            raise ValueError(f"steps is {steps}, expected at least 0.")
        super().__init__(
            model,
            prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.steps = steps

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """(x_0 - E[x' | x_0]) / r, or with one draw for the mean; eps takes no part in it."""
        x, at = level.alpha * x_0, level
        low = level.t.clamp(max=LOWEST)
        for k in range(1, self.steps + 1):
            seen = self.guided(x, at)
            below = self.model.level(level.t + k / self.steps * (low - level.t), x_0)
            share = (below.ratio / at.ratio).square()  # x_s ~ q(x_s | x_t, x_0_hat)
            z = normal(self.rng, x_0.shape[1:], dtype=x.dtype).to(x.device)
            noise = share.sqrt() * seen.eps + (1 - share).clamp(min=0).sqrt() * z
            x, at = below.perturb(seen.x_0, noise), below
        return (x_0 - self.guided(x, at).x_0) / level.ratio
