"""What every editing method shares: two conditions, guidance, a mask, seeds, and a walk to watch.

    x_0 under `source`  -->  x_0' under `target`,   x_0' = x_0 to the bit where the mask is zero

Rows are edited at once, and none depends on its batch-mates: what is drawn is drawn from the row's
own seed.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.edit.masks import blend, check
from sdstoolkit.guidance import ClassifierFree
from sdstoolkit.rng import generators, seeds_of
from sdstoolkit.score import ScoreModel

__all__ = ["Edit", "EditStep"]


@dataclass(frozen=True)
class EditStep:
    """Where an edit is.

    Attributes:
        index, steps: which step was just made, and how many there are; the first index is 1.
        x_0: what the model expects of the result so far, and at last the result, [n, *shape].
    """

    index: int
    steps: int
    x_0: State


class Edit(ABC):
    """An editing method; a new one writes `walk`, and `build` if its arguments differ."""

    @abstractmethod
    def walk(
        self,
        x_0: State,
        source: Condition | None,
        target: Condition | None,
        rng: Sequence[Generator],
        mask: Tensor | None,
    ) -> Iterator[EditStep]:
        """The edit on its way; the last step holds the result. Called with gradients off.

        Args:
            x_0: clean states, float64, [n, *shape].
            source: what they show, of 1 or n rows.
            target: what they shall show, of 1 or n rows.
            rng: a generator a row.
            mask: where to edit, checked, [n or 1, 1, h, w]; None for everywhere. What the method
                leaves outside of it is put back by the caller.
        """

    @classmethod
    def build(
        cls,
        model: ScoreModel,
        null: Condition | None,
        *,
        scale: float,
        options: Mapping[str, Any],
    ) -> "Edit":
        """The edit with its sampling guided, and nothing else.

        Args:
            model: the model without guidance.
            null: what to guide away from; None for a model without conditions.
            scale: of the guidance; 1 is none.
            options: the method's own keyword arguments.

        Raises:
            ValueError: an option is out of range.
        """
        make: Callable[..., Edit] = cls
        return make(model, guide(model, null, scale), **options)

    def steps(
        self,
        x_0: Tensor,
        source: Condition | None,
        target: Condition | None,
        *,
        mask: Tensor | None = None,
        seed: int | Sequence[int] = 0,
    ) -> Iterator[EditStep]:
        """The edit on its way, made when it is asked for; the last step holds the result.

        Args:
            x_0: clean states, [n, *shape].
            source: what they show, of 1 or n rows; None for an unconditional model.
            target: what they shall show, likewise.
            mask: where to edit, shares in [0, 1] at the size of x_0, [n or 1, 1, h, w]: the walk
                is told what is known outside of it. For pixels see `composite`.
            seed: of what is drawn, the first row's or one a row.

        Raises:
            ValueError: a mask of another size, or a black one; or as the flow's.
        """
        if not x_0.is_floating_point():
            raise ValueError(f"x_0 has dtype {x_0.dtype}; expected a floating-point one.")
        x_0 = x_0.detach().double()
        inside = None if mask is None else check(mask, x_0)
        rng = generators(seeds_of(seed, len(x_0)), type(self).__name__)
        walk = self.walk(x_0, source, target, rng, inside)
        while True:
            with torch.no_grad():  # while it walks, and not for whoever is handed a step
                step = next(walk, None)
                if step is not None and inside is not None:
                    step = replace(step, x_0=blend(step.x_0, x_0, inside))
            if step is None:
                return
            yield step

    def __call__(
        self,
        x_0: Tensor,
        source: Condition | None,
        target: Condition | None,
        *,
        mask: Tensor | None = None,
        seed: int | Sequence[int] = 0,
    ) -> State:
        """The edited x_0, [n, *shape], in float64; arguments and errors are those of `steps`."""
        way = self.steps(x_0, source, target, mask=mask, seed=seed)
        return deque(way, maxlen=1).pop().x_0


def guide(model: ScoreModel, null: Condition | None, scale: float) -> ScoreModel:
    """The model with classifier-free guidance; itself at scale 1 and where there is no null."""
    return model if scale == 1 or null is None else ClassifierFree(model, null, scale=scale)


def check_strength(strength: float) -> float:
    """How far to go, a time in (0, 1].

    Raises:
        ValueError: it is not.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength = {strength} is not in (0, 1].")
    return strength
