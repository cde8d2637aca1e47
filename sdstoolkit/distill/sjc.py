"""Score Jacobian chaining: perturb, and average the scores.

In the coordinates of a variance-exploding model, x + r eps with r = sigma / alpha,

    G = (x - D(x + r eps)) / r = eps_hat - eps     with the noise taken out,
    G = (x + r eps - D(x + r eps)) / r = eps_hat   without,

the first of which is SDS with a constant weight. The second has the same mean, as E[eps] = 0.
"""

from collections.abc import Sequence

from sdstoolkit._typing import State
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import Constant, Weight
from sdstoolkit.grids import UniformLaw
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel

__all__ = ["SJC"]

_WEIGHT, _LAW = Constant(), UniformLaw(t_min=0.03, t_max=0.99)


class SJC(Distiller):
    """Score Jacobian chaining.

        G = w (eps_hat - eps)   or   w eps_hat,   w = 1

    Network evaluations a row: 2, in one batched call; 1 at `scale=1`. Other arguments, errors and
    what is returned are `Distiller`'s.

    Wang, Du, Li, Yeh and Shakhnarovich, 2022, https://arxiv.org/abs/2212.00774.

    Args:
        model, prompt, negative, scale, weight, t_law, limits: as `Distiller`.
        reduce_variance: take the noise that was drawn out of the gradient. It helps while
            alpha s < sigma, s the spread of the data, and harms at lower noise.
    """

    card = Card(
        rows=2,
        paper="Wang et al., 2022",
        link="https://arxiv.org/abs/2212.00774",
        scale=7.5,
        law="sqrt",
        lr=0.1,
        bad_at="as SDS; low noise counts as much as high, so its textures are rougher",
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
        reduce_variance: bool = True,
    ) -> None:
        super().__init__(
            model,
            prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.reduce_variance = reduce_variance

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """eps_hat - eps, or eps_hat."""
        seen = self.guided(x_t, level)
        return seen.eps - eps if self.reduce_variance else seen.eps
