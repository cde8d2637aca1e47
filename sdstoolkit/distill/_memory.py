"""A tensor with a row an image that a loss keeps from call to call.

It belongs to the generators of the rows: another batch, or another run, begins without it.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor

__all__ = ["Held", "Memory"]


class Memory:
    """Remembers one tensor for one batch of rows."""

    def __init__(self) -> None:
        self._owners: tuple[Generator, ...] = ()
        self._value: Tensor | None = None
        self._orphaned = False

    def recall(self, rng: Sequence[Generator], like: Tensor) -> Tensor | None:
        """What was kept for these rows, or None.

        Args:
            rng: the generators of the rows, which name them.
            like: a tensor of the shape that is expected.
        """
        if self._orphaned and self._value is not None and self._value.shape == like.shape:
            self._owners, self._orphaned = tuple(rng), False
        same = len(rng) == len(self._owners) and all(map(_is, rng, self._owners))
        if not same or self._value is None or self._value.shape != like.shape:
            return None
        return self._value.to(like)

    def keep(self, rng: Sequence[Generator], value: Tensor) -> Tensor:
        """Keep a tensor for these rows; it is returned."""
        self._owners, self._value, self._orphaned = tuple(rng), value, False
        return value

    def state(self, name: str) -> dict[str, Tensor]:
        """What is kept, under a name; nothing if there is nothing."""
        return {} if self._value is None else {name: self._value}

    def restore(self, state: Mapping[str, Tensor], name: str) -> None:
        """Keep what `state` gave; it will belong to the rows that ask first."""
        self._owners, self._value = (), state.get(name)
        self._orphaned = self._value is not None


class Held:
    """A noise that is kept for some steps at first, and for fewer and fewer until a progress.

        steps = max(1, round(hold (1 - progress / until)))

    Attributes:
        hold: for how many steps at progress 0; 1 is a new noise in every step.
        until: the progress from which on it is new in every step.

    Raises:
        ValueError: `hold` is below 1, or `until` is not in [0, 1].
    """

    def __init__(self, hold: int, until: float) -> None:
        if hold < 1 or not 0 <= until <= 1:
            raise ValueError(
                f"hold is {hold} and until {until}, expected at least 1 step, and a progress in "
                "[0, 1]."
            )
        self.hold, self.until = hold, until
        self._memory, self._left = Memory(), 0

    def __call__(
        self,
        rng: Sequence[Generator],
        like: Tensor,
        progress: float,
        draw: Callable[[Tensor, Sequence[Generator]], Tensor],
    ) -> Tensor:
        """The noise of this step.

        Args:
            rng: the generators of the rows.
            like: a tensor of the shape that is wanted.
            progress: how much of the optimisation is over.
            draw: makes a new noise of (like, rng).
        """
        kept = self._memory.recall(rng, like)
        if kept is not None and self._left:
            self._left -= 1
            return kept
        falling = 1 - progress / self.until if self.until else 0.0
        self._left = max(1, round(self.hold * falling)) - 1
        return self._memory.keep(rng, draw(like, rng))

    def state(self) -> dict[str, Tensor]:
        """The noise that is held, and for how many more steps."""
        return self._memory.state("noise") | {"left": torch.tensor(self._left)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._memory.restore(state, "noise")
        self._left = int(state["left"])


def _is(one: object, other: object) -> bool:
    return one is other
