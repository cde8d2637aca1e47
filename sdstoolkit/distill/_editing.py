"""What the losses that edit share: a source image and what it shows.

    z_t = alpha x_0 + sigma eps,   y_t = alpha y_0 + sigma eps

for the edited x_0 and the source y_0 with one t and one eps for both, so that what is wrong with
the network at that place cancels.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from sdstoolkit._typing import State
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw, condition_of
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import Constant, Weight
from sdstoolkit.grids import UniformLaw
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel, together

__all__ = ["Editing", "LAW", "WEIGHT"]

WEIGHT, LAW = Constant(), UniformLaw(t_min=0.05, t_max=0.95)


class Editing(Distiller):
    """A loss that leads an image away from what a source shows; a new one writes `difference`.

    Args:
        model, negative, scale, weight, t_law, limits: as `Distiller`; both branches are guided.
        prompt: what the edited image shall show.
        source: y_0, the source in the model's space, [1 or n, *shape].
        source_prompt: what it shows; None for the unconditional model.

    Raises:
        ValueError: there is no source, or as `Distiller`.
    """

    source: Tensor

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
        shape = self.model.shape
        if source.ndim != 1 + len(shape) or source.shape[1] != shape[0]:
            expected = ", ".join(map(str, ("n", *shape)))
            raise ValueError(
                f"source has shape {list(source.shape)}, expected [{expected}]: the image that is "
                "edited, as prior.codec.encode gives it."
            )
        self.register_buffer("source", source.detach(), persistent=False)
        self.source_condition = condition_of(model, source_prompt)

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """The difference of the two branches under one noise."""
        return self.difference(x_t, level.perturb(self.source_of(x_0), eps), level, eps)

    @abstractmethod
    def difference(self, x_t: State, y_t: State, level: NoiseLevel, eps: State) -> State:
        """R from the edited state and the source's; called with gradients off."""

    def source_of(self, x_0: Tensor) -> State:
        """The source, a row for each of x_0's.

        Raises:
            ValueError: it has neither one row nor as many, or another size.
        """
        if len(self.source) not in (1, len(x_0)) or self.source.shape[1:] != x_0.shape[1:]:
            raise ValueError(
                f"The source has shape {list(self.source.shape)} and x_0 {list(x_0.shape)}; give "
                "one source, or one a row, of the size that is edited."
            )
        return self.source.to(x_0).expand_as(x_0)

    def delta(self, x_t: State, y_t: State, level: NoiseLevel) -> State:
        """eps_hat(x_t, c) - eps_hat(y_t, c'), both guided, in one batched call."""
        branches = ((x_t, self.condition), (y_t, self.source_condition))
        asked = [(z, level, c) for z, c in branches]
        if self.scale == 1:
            edited, there = together(self.model, *asked)
            return edited.eps - there.eps
        asked += [(z, level, self.null) for z, _ in branches]
        told, told_there, untold, untold_there = (p.eps for p in together(self.model, *asked))
        null = untold - untold_there
        return torch.add(null, told - told_there - null, alpha=self.scale)
