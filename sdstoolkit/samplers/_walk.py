"""What samplers share: where rows start, what they draw, how a field is read, when they diverge.

A sampler is a Markov chain, x <- x + drift(x) + noise, run for n rows. Row i draws from the
generator of seed + i only, so that it does not depend on the number of rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.prediction import Prediction
from sdstoolkit.rng import generators, normal, seeds_of, uniform
from sdstoolkit.score import ScoreModel

__all__ = ["Draw", "Sampler", "Target", "field", "predict"]


@runtime_checkable
class Target(Protocol):
    """A density to draw from: `toy` has many."""

    shape: tuple[int, ...]

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density, [n], maybe up to a constant."""
        ...

    def score(self, x: Tensor) -> Tensor:
        """Its gradient, [n, *shape]."""
        ...


class Draw:
    """Standard normal and uniform rows, one step after the other.

    A row's numbers are drawn for many steps at once, as many for any number of rows.
    """

    def __init__(
        self,
        rng: Sequence[Generator],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._rng, self._shape, self._dtype, self._device = rng, shape, dtype, device
        self._ahead = max(1, min(64, 4096 // max(1, torch.Size(shape).numel())))
        self._normal: list[Tensor] = []
        self._uniform: list[Tensor] = []

    def normal(self) -> Tensor:
        """The next z ~ N(0, I), [n, *shape]."""
        if not self._normal:
            block = normal(self._rng, (self._ahead, *self._shape), dtype=self._dtype)
            self._normal = list(block.to(self._device).unbind(1))[::-1]
        return self._normal.pop()

    def uniform(self) -> Tensor:
        """The next u ~ U[0, 1), float64 [n]."""
        if not self._uniform:
            block = uniform(self._rng, (self._ahead,)).to(self._device)
            self._uniform = list(block.unbind(1))[::-1]
        return self._uniform.pop()


class Sampler(ABC):
    """A Markov chain for many rows; a new one writes `walk`, and `begin` if it does not start in
    N(0, I).

    Attributes:
        shape: of one sample.
        report: what the last run measured about itself, by name.
    """

    shape: tuple[int, ...]
    report: dict[str, float]

    def sample(
        self,
        n: int,
        condition: Condition | None = None,
        seed: int | Sequence[int] = 0,
        *,
        start: Tensor | None = None,
    ) -> State:
        """The last state of `steps`, [n, *shape]; arguments and errors are its."""
        x = None
        for x in self.steps(n, condition, seed, start=start):  # noqa: B007
            pass
        assert x is not None
        return x

    def steps(
        self,
        n: int,
        condition: Condition | None = None,
        seed: int | Sequence[int] = 0,
        *,
        start: Tensor | None = None,
    ) -> Iterator[State]:
        """The states, one after the other, the first one included.

        Args:
            n: rows, at least 1.
            condition: what a score model is told, of 1 or n rows.
            seed: row i draws from seed + i; or n distinct seeds.
            start: the first state, [n, *shape]; by default the sampler's own law, in float32.

        Raises:
            ValueError: n, seeds or start that do not fit; and, after the last state, rows that
                diverged, so that no such state is ever returned as a sample.
        """
        rng = generators(seeds_of(seed, n), "sampler")
        if start is not None and start.shape != (n, *self.shape):
            raise ValueError(
                f"start has shape {list(start.shape)}; expected {[n, *self.shape]} for n = {n}."
            )
        like = torch.zeros(0, device=self.device()) if start is None else start.detach()
        draw = Draw(rng, self.shape, like.dtype, like.device)
        self.report = {}
        return self._run(self.begin(draw) if start is None else like, draw, condition)

    @abstractmethod
    def walk(self, x: Tensor, draw: Draw, condition: Condition | None) -> Iterator[Tensor]:
        """The states after x, [n, *shape] each."""

    def begin(self, draw: Draw) -> Tensor:
        """The first state."""
        return draw.normal()

    def finish(self, steps: int) -> None:
        """Refuse a run whose report says that its states are no sample."""
        return

    def device(self) -> torch.device:
        """Where states live if no start says so."""
        return torch.device("cpu")

    def _run(self, x: Tensor, draw: Draw, condition: Condition | None) -> Iterator[Tensor]:
        yield x
        last, k = x, 0
        for k, last in enumerate(self.walk(x, draw, condition), 1):
            if k % 32 == 0:
                _refuse_infinite(last, k, self)
            yield last
        _refuse_infinite(last, k, self)
        self.finish(k)


def field(
    target: Target | ScoreModel, t: float | None, condition: Condition | None
) -> Callable[[Tensor], Tensor]:
    """The score that a chain follows, x -> [n, *shape].

    Args:
        target: a density, or a score model, whose noised law at `t` is meant.
        t: time in (0, 1] of a score model; None for a density.
        condition: for a score model.

    Raises:
        ValueError: a time or a condition for a density, none for a score model; or a density
            known only up to a constant whose integral is not finite.
    """
    if isinstance(target, ScoreModel):
        model = target
        if t is None:
            raise ValueError(
                f"{type(model).__name__} has a score at every noise level; give t in (0, 1]."
            )
        return lambda x: predict(model, x, t, condition).score
    if t is not None or condition:
        raise ValueError(
            f"{type(target).__name__} is a density and knows neither t nor a condition; give none."
        )
    if not getattr(target, "normalised", True):
        check = getattr(target, "check_normalisable", None)
        if check is not None:
            check()
    return target.score


def predict(
    model: ScoreModel, x: Tensor, t: float | Tensor, condition: Condition | None
) -> Prediction:
    """What a model knows about x, without a graph."""
    with torch.no_grad():
        return model(x, t, condition)


def place(target: object) -> torch.device:
    """Where a target's tensors are; the CPU if it has none."""
    if isinstance(target, torch.nn.Module):
        for tensor in (*target.parameters(), *target.buffers()):
            return tensor.device
    return torch.device("cpu")


def positive(**numbers: float) -> None:
    """Refuse numbers that are not finite and above 0.

    Raises:
        ValueError: the name and the number.
    """
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} = {value} is not a finite number above 0.")


def _refuse_infinite(x: Tensor, step: int, sampler: object) -> None:
    bad = ~x.flatten(1).isfinite().all(1)
    if bad.any():
        rows = bad.nonzero()[:4, 0].tolist()
        raise ValueError(
            f"{type(sampler).__name__} diverged: {int(bad.sum())} of {len(x)} rows, the first "
            f"being {rows}, are not finite at step {step}; take a smaller step."
        )
