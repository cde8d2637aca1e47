"""Consistent flow distillation: SDS with one noise for the whole run, at falling times.

In the clean coordinate x_0 = x_t / alpha - r eps with eps fixed, the probability flow is

    dx_0 / dr = eps_hat(alpha (x_0 + r eps)) - eps,

SDS's own residual. Gradient descent with rates |dr| follows the flow of a seed, step by step DDIM;
another seed is another image. The SDE of the same marginals renews a share gamma of the noise.
"""

from collections.abc import Mapping, Sequence

from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.distill._memory import Memory
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import Constant, Weight
from sdstoolkit.grids import LinearAnneal
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel

__all__ = ["CFD"]

_WEIGHT, _LAW = Constant(), LinearAnneal()


class CFD(Distiller):
    """Consistent flow distillation.

        G = w (eps_hat(alpha x_0 + sigma eps) - eps),   eps <- sqrt(1 - gamma) eps + sqrt(gamma) xi

    Network evaluations a row: 2, in one batched call; 1 at `scale=1`. A new run, with generators
    of its own, begins with new noise.

    Yan, Chen and Wang, 2025, https://arxiv.org/abs/2501.05445, with Adam's betas (0, .99) and the
    normaliser of `limits.Normalise`. Where the canvas is x_0, plain gradient descent with the
    weight `NoiseRatio` takes the steps of the flow itself: a rate of .05 is that of a run in which
    the noise ratio falls by a twentieth from step to step.

    Args:
        model, prompt, negative, scale, weight, t_law, limits: as `Distiller`; t should fall.
        gamma: share of the noise that is new in a step, in [0, 1]; 1 is SDS.

    Raises:
        ValueError: `gamma` is not in [0, 1], or as `Distiller`.
    """

    card = Card(
        rows=2,
        paper="Yan et al., 2025",
        link="https://arxiv.org/abs/2501.05445",
        scale=5.0,
        weight="ratio",
        lr=0.05,
        optimizer="sgd",
        bad_at="optimisers with momentum, which leave the flow; a start that is no flat image",
    )

    betas = (0.0, 0.99)

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
        gamma: float = 0.0,
    ) -> None:
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma is {gamma}, expected a share of new noise in [0, 1].")
        super().__init__(
            model,
            prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.gamma = gamma
        self._noise = Memory()

    def noise(self, x_0: State, rng: Sequence[Generator]) -> State:
        """The run's noise, or its first draw."""
        kept = self._noise.recall(rng, x_0)
        if kept is None:
            return self._noise.keep(rng, super().noise(x_0, rng))
        if self.gamma:
            new = super().noise(x_0, rng)
            kept = (1 - self.gamma) ** 0.5 * kept + self.gamma**0.5 * new
        return self._noise.keep(rng, kept)

    def state(self) -> dict[str, Tensor]:
        """What is kept from call to call."""
        return self._noise.state("noise")

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from it."""
        self._noise.restore(state, "noise")

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """The error of the predicted noise, eps_hat - eps."""
        return self.guided(x_t, level).eps - eps
