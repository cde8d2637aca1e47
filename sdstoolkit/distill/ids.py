"""Identity-preserving distillation sampling: DDS with the noise that belongs to the source.

The source's noise is moved until the network's posterior mean of the source is the source itself,

    y_t <- y_t - step grad_(y_t) ||y_0 - y_0_hat(y_t, c')||,   eps* = (y_t - alpha y_0) / sigma,

and DDS is taken with eps*. At the fixed point the source branch predicts eps* itself, so that what
is left is SDS with eps* on the edited image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sdstoolkit._typing import State
from sdstoolkit.distill._editing import LAW, WEIGHT, Editing
from sdstoolkit.distill.base import Prompt, TimeDraw
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import Weight
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel, combine

__all__ = ["IDS"]


class IDS(Editing):
    """Identity-preserving distillation sampling, for edits.

        G = w (eps_hat(alpha x_0 + sigma eps*, c) - eps_hat(alpha y_0 + sigma eps*, c'))

    Network evaluations a row: 4, and 2 with their way back for each iteration; half of it at
    `scale=1`.

    Kim et al., 2025, https://arxiv.org/abs/2502.19930.

    Args:
        model, prompt, source, source_prompt, negative, scale, weight, t_law, limits: as `Editing`.
        iterations: of the fixed point, at least 0; 0 is DDS.
        step: of an iteration, above 0.

    Raises:
        ValueError: `iterations` or `step` is out of range, or as `Editing`.
    """

    card = Card(
        rows=10,
        passes=6,
        paper="Kim et al., 2025",
        link="https://arxiv.org/abs/2502.19930",
        scale=7.5,
        bad_at="cost: it differentiates the network",
    )

    def __init__(
        self,
        model: Prior | ScoreModel,
        prompt: Prompt = None,
        *,
        source: Tensor,
        source_prompt: Prompt = None,
        negative: Prompt = None,
        scale: float = 1.0,
        weight: Weight = WEIGHT,
        t_law: TimeDraw = LAW,
        limits: Sequence[Limit] = (),
        iterations: int = 3,
        step: float = 1.0,
    ) -> None:
        if iterations < 0 or not 0 < step < float("inf"):
            raise ValueError(
                f"iterations is {iterations} and step {step}, expected iterations from 0 on and a "
                "step above 0."
            )
        super().__init__(
            model,
            prompt,
            source=source,
            source_prompt=source_prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.iterations, self.step = iterations, step

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """The difference of the two guided predictions under the source's noise."""
        y_0 = self.source_of(x_0)
        eps = self.source_noise(y_0, level, eps)
        return self.delta(level.perturb(x_0, eps), level.perturb(y_0, eps), level)

    def difference(self, x_t: State, y_t: State, level: NoiseLevel, eps: State) -> State:
        """As DDS; `residual` moves the noise first."""
        return self.delta(x_t, y_t, level)

    def source_noise(self, y_0: State, level: NoiseLevel, eps: State) -> State:
        """eps*, [n, *shape], from where eps is.

        Args:
            y_0: the source.
            level: the noise level.
            eps: the noise to begin with.
        """
        conditions, weights = (self.source_condition, self.null), (self.scale, 1 - self.scale)
        y_t = level.perturb(y_0, eps)
        for _ in range(self.iterations):
            with torch.enable_grad():
                y_t.requires_grad_()
                y_0_hat = combine(self.model, y_t, level, conditions, weights).x_0
                away = torch.linalg.vector_norm((y_0 - y_0_hat).flatten(1), dim=1)
                (slope,) = torch.autograd.grad(away.sum(), y_t)
            y_t = y_t.detach() - self.step * slope
        return (y_t - level.alpha * y_0) / level.sigma
