"""What every editing method shares: two conditions, a mask and seeds.

    x_0 under `source`  -->  x_0' under `target`,   x_0' = x_0 to the bit where the mask is zero

Rows are edited at once, and none depends on its batch-mates: what is drawn is drawn from the row's
own seed.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.edit.masks import blend, check
from sdstoolkit.rng import generators, seeds_of

__all__ = ["Edit"]


class Edit(ABC):
    """An editing method; a new one writes `edit` only."""

    @abstractmethod
    def edit(
        self,
        x_0: State,
        source: Condition | None,
        target: Condition | None,
        rng: Sequence[Generator],
    ) -> State:
        """The edited x_0, without a mask; called with gradients off.

        Args:
            x_0: clean states, float64 or float32, [n, *shape].
            source: what they show, of 1 or n rows.
            target: what they shall show, of 1 or n rows.
            rng: a generator a row.
        """

    def __call__(
        self,
        x_0: Tensor,
        source: Condition | None,
        target: Condition | None,
        *,
        mask: Tensor | None = None,
        seed: int | Sequence[int] = 0,
    ) -> State:
        """The edited x_0, [n, *shape], in float64.

        Args:
            x_0: clean states, [n, *shape].
            source: what they show, of 1 or n rows; None for an unconditional model.
            target: what they shall show, likewise.
            mask: where to edit, shares in [0, 1] at the size of x_0, [n or 1, 1, h, w]. For
                pixels see `composite`.
            seed: of what is drawn, the first row's or one a row.

        Raises:
            ValueError: a mask of another size, or a black one; or as the flow's.
        """
        if not x_0.is_floating_point():
            raise ValueError(f"x_0 has dtype {x_0.dtype}; expected a floating-point one.")
        x_0 = x_0.detach().double()
        inside = None if mask is None else check(mask, x_0)
        with torch.no_grad():
            rng = generators(seeds_of(seed, len(x_0)), type(self).__name__)
            edited = self.edit(x_0, source, target, rng)
        return edited if inside is None else blend(edited, x_0, inside)
