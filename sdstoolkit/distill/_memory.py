"""A tensor with a row an image that a loss keeps from call to call.

It belongs to the generators of the rows: another batch, or another run, begins without it.
"""

from collections.abc import Mapping, Sequence

from torch import Generator, Tensor

__all__ = ["Memory"]


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


def _is(one: object, other: object) -> bool:
    return one is other
