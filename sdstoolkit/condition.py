"""What a network is told besides x_t and t.

A condition is an immutable mapping from names to tensors, one row a sample: text embeddings,
class labels, a hint image. Below `Prior.condition` there are no strings. ``Condition()`` says
nothing and fits any number of rows.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


class Condition(Mapping[str, Tensor]):
    """An immutable mapping from names to tensors that share their leading axis, the rows.

        condition["text"]   is a tensor   [rows, ...]

    Two conditions are equal only if they are the same object.

    Args:
        tensors: name -> tensor [rows, ...]; nothing for an unconditional model.

    Raises:
        ValueError: a value that is not a tensor with rows, or rows that differ.
    """

    __slots__ = ("_tensors",)

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        self._tensors: dict[str, Tensor] = dict(tensors or {})
        for name, tensor in self._tensors.items():
            if not isinstance(tensor, Tensor) or tensor.ndim == 0:
                raise ValueError(f"condition[{name!r}] is not a tensor with a leading row axis.")
            if len(tensor) != self.rows:
                rows = {k: len(v) for k, v in self._tensors.items()}
                raise ValueError(f"A condition's tensors have different numbers of rows: {rows}.")

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._tensors[name]
        except KeyError:
            known = ", ".join(self._tensors) or "nothing"
            raise KeyError(f"the condition has no {name!r}, it holds {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        shapes = ", ".join(f"{k}: {list(v.shape)}" for k, v in self.items())
        return f"Condition({shapes})"

    @property
    def rows(self) -> int:
        """The number of rows; 1 for an empty condition, which fits any."""
        return len(next(iter(self._tensors.values()))) if self._tensors else 1

    def expand(self, n: int) -> "Condition":
        """The same condition for n rows: 1 row becomes n (a view), n rows stay.

        Args:
            n: how many rows.

        Raises:
            ValueError: the condition has neither 1 nor n rows.
        """
        if self.rows == n or not self._tensors:
            return self
        if self.rows != 1:
            raise ValueError(f"A condition of {self.rows} rows was given for {n}; give 1 or {n}.")
        return Condition({k: v.expand(n, *v.shape[1:]) for k, v in self.items()})

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Condition":
        """The same condition elsewhere; only floating-point tensors change their dtype.

        Args:
            device: where to; None stays.
            dtype: of the floating-point tensors; None keeps theirs.
        """
        moved = {
            k: v.to(device=device, dtype=dtype if v.is_floating_point() else None)
            for k, v in self.items()
        }
        stay = all(moved[k] is v for k, v in self.items())
        return self if stay else Condition(moved)

    @staticmethod
    def cat(*conditions: "Condition") -> "Condition":
        """The rows of all conditions, one after the other; the same as `cat`."""
        return cat(*conditions)


def merge(*conditions: Condition) -> Condition:
    """The names of all conditions; those of one row are expanded to the rows of the others.

    Args:
        conditions: of 1 or n rows each, without a name in common.

    Raises:
        ValueError: different numbers of rows, or a name twice.
    """
    rows = max(condition.rows for condition in conditions)
    merged: dict[str, Tensor] = {}
    for condition in conditions:
        twice = sorted(set(merged) & set(condition))
        if twice:
            raise ValueError(f"Two conditions hold {', '.join(twice)}; each name may come once.")
        merged |= condition.expand(rows)
    return Condition(merged)


def cat(*conditions: Condition) -> Condition:
    """The rows of all conditions, one after the other.

    Args:
        conditions: with the same names, and the same shapes but for the rows.

    Raises:
        ValueError: names or shapes differ.
    """
    if len({frozenset(c) for c in conditions}) > 1:
        raise ValueError(
            f"Conditions that hold {[sorted(c) for c in conditions]} cannot be joined; "
            "all must hold the same names."
        )
    joined = {}
    for name in conditions[0] if conditions else ():
        tensors = [c[name] for c in conditions]
        if len({v.shape[1:] for v in tensors}) > 1:
            raise ValueError(
                f"The conditions' {name!r} have shapes {[list(v.shape) for v in tensors]}, which "
                "differ in more than the rows; pad them to one shape."
            )
        joined[name] = torch.cat(tensors)
    return Condition(joined)
