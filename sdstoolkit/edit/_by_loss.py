"""Edits that a loss makes: gradient descent from the image itself.

    x_0' = argmin L(x_0'; x_0, source, target),   by Adam from x_0' = x_0

A loss for it is a `Distiller` that is told a source image and what that shows, and whose gradient
vanishes where nothing needs to change. A method is a file with a class that names its loss:

    class DDS(ByLoss):
        loss = distill.DDS

and, where the loss has options of its own, an `__init__` that takes them and puts them into `own`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Generator, Tensor

from sdstoolkit._adam import Adam
from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.distill import Distiller
from sdstoolkit.edit.base import Edit, EditStep
from sdstoolkit.edit.masks import blend
from sdstoolkit.optimization import CosineDecay
from sdstoolkit.score import ScoreModel

__all__ = ["ByLoss"]


class ByLoss(Edit):
    """The edit that a loss pulls the image to, x_0' <- x_0' - lr Adam(dL / dx_0').

    Network evaluations: the loss's, a step.

    Attributes:
        loss: makes the loss, called with the model, the target, and `source`, `source_prompt`,
            `negative`, `scale` and `own`.
        own: the options of the loss's own, by name.

    Args:
        model: the model without guidance.
        null: what to guide away from; None for a model without conditions.
        scale: of the guidance; 1 is none.
        steps: of Adam, at least 1.
        lr: of Adam at the beginning, above 0, in the units of x_0; it falls to 0 as a cosine.

    Raises:
        ValueError: one of these is out of range; at the first step, as the loss.
    """

    loss: ClassVar[Callable[..., Distiller]]

    def __init__(
        self,
        model: ScoreModel,
        null: Condition | None = None,
        *,
        scale: float = 7.5,
        steps: int = 200,
        lr: float = 0.05,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps = {steps} is not at least 1.")
        self.model, self.null, self.scale = model, null, scale
        self.count, self.rate = steps, CosineDecay(lr)
        self.own: dict[str, Any] = {}

    @classmethod
    def build(
        cls,
        model: ScoreModel,
        null: Condition | None,
        *,
        scale: float,
        options: Mapping[str, Any],
    ) -> "Edit":
        """The edit at this scale; without a null condition there is no guidance."""
        return cls(model, null, scale=1.0 if null is None else scale, **options)

    def distiller(
        self, x_0: State, source: Condition | None, target: Condition | None
    ) -> Distiller:
        """The loss of an edit.

        Args:
            x_0: what is edited, [n, *shape].
            source: what it shows, of 1 or n rows.
            target: what it shall show, of 1 or n rows.

        Raises:
            ValueError: as the loss.
        """
        return type(self).loss(
            self.model,
            target,
            source=x_0,
            source_prompt=source,
            negative=None if self.scale == 1 else self.null,
            scale=self.scale,
            **self.own,
        )

    def walk(
        self,
        x_0: State,
        source: Condition | None,
        target: Condition | None,
        rng: Sequence[Generator],
        mask: Tensor | None,
    ) -> Iterator[EditStep]:
        """Down the loss; outside of a mask nothing moves."""
        loss = self.distiller(x_0, source, target)
        x = x_0.clone()
        adam = Adam([x], self.rate(0.0), (0.9, 0.99), eps=1e-15)  # by element: rows do not mix
        for index in range(self.count):
            adam.param_groups[0]["lr"] = self.rate(index / self.count)
            x.grad = loss.gradient(x, progress=index / self.count, rng=rng)
            adam.step()
            if mask is not None:
                x.copy_(blend(x, x_0, mask))
            yield EditStep(index + 1, self.count, x.clone())
