"""Score distillation for flow models, by the velocity they predict.

With v = eps - x_0 on the straight path x_t = (1 - t) x_0 + t eps,

    G = w (v_hat - (eps - x_0)) = w (eps_hat - eps) / (1 - t),

SDS with another weight. It is written with `Prediction.flow` and so takes any model; for another
schedule 1 / (1 - t) becomes (alpha + sigma) / alpha. The noise that fits x_0 best is a fixed point
of eps <- x_0 + v_hat; one step of it, damped by 1 - t, is eps <- eps_hat(x_t).
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

__all__ = ["RFDS"]

_WEIGHT, _LAW = Constant(), UniformLaw()


class RFDS(Distiller):
    """Rectified-flow distillation sampling, and with `refine=1` RFDS-Rev.

        G = w (v_hat(x_t) - (eps - x_0)),   and before it, `refine` times,
        eps <- eps + (1 - t) (v_hat(x_t, c) - (eps - x_0)) = eps_hat(x_t, c)

    Network evaluations a row: 2, in one batched call, and one for each refinement. The weight is a
    function of t; the released code's is a random number that does not depend on it.

    Yang et al., 2024, https://arxiv.org/abs/2406.03293.

    Args:
        model, prompt, negative, scale, weight, t_law, limits: as `Distiller`.
        refine: how often the noise is refined under the prompt alone, at least 0.

    Raises:
        ValueError: `refine` is negative, or as `Distiller`.
    """

    card = Card(
        rows=2,
        paper="Yang et al., 2024",
        link="https://arxiv.org/abs/2406.03293",
        scale=7.5,
        law="sqrt",
        weight="alpha-sigma2",
        lr=0.1,
        bad_at="high noise of models that are no flows, where its weight grows as 1 / alpha",
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
        refine: int = 0,
    ) -> None:
        if refine < 0:
            raise ValueError(f"refine is {refine}, expected a number of refinements from 0 on.")
        super().__init__(
            model,
            prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.refine = refine

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """v_hat - (eps - x_0), for the noise that was drawn or refined."""
        for _ in range(self.refine):
            eps = self.model(x_t, level, self.condition).eps
            x_t = level.perturb(x_0, eps)
        return self.guided(x_t, level).flow - (eps - x_0)
