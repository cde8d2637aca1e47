"""Null-text optimisation: the null condition that makes guidance undo the inversion, step by step.

With the states x*_t of an inversion under the source, and E Euler's step from t to s, at each step

    x_s = scale E(x_t; source) + (1 - scale) E(x_t; n),   n = argmin |x_s - x*_s|^2,

by a few steps of Adam from the n of the step before. The target's chain, from the same noise and
with the same n, is walked beside it. Nothing is kept between two calls, so that nothing can be out
of date. `NegativePrompt` gets the same reconstruction for nothing; this one leaves n free.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.edit.base import Edit, EditStep, check_strength
from sdstoolkit.edit.masks import blend
from sdstoolkit.prediction import Prediction
from sdstoolkit.samplers import ProbabilityFlow
from sdstoolkit.score import ScoreModel
from sdstoolkit.solvers import ExponentialAdams, Field, Node

__all__ = ["NullText"]


class NullText(Edit):
    """Guided sampling whose null condition was fitted to the image, n = argmin |x_s - x*_s|^2.

    Network evaluations: `inner` + 6 a step, `inner` + 1 of them with a backward pass.

    Mokady, Hertz, Aberman, Pritch and Cohen-Or, 2022, https://arxiv.org/abs/2211.09794.

    Args:
        model: the model without guidance.
        null: where the null condition starts, of 1 or n rows.
        scale: of the guidance, not 1.
        steps: how many steps each way, at least 1.
        strength: how far to go, a time in (0, 1].
        inner: how many steps of Adam at every step, at least 1.
        lr: learning rate of Adam at the first step, half of it at the last; above 0.

    Raises:
        ValueError: one of these is out of range.
    """

    def __init__(
        self,
        model: ScoreModel,
        null: Condition,
        *,
        scale: float,
        steps: int = 50,
        strength: float = 1.0,
        inner: int = 10,
        lr: float = 0.01,
    ) -> None:
        check_strength(strength)
        if scale == 1:
            raise ValueError("scale = 1 leaves no part to the null condition; give another one.")
        if inner < 1 or not lr > 0:
            raise ValueError(f"inner = {inner} is not at least 1, or lr = {lr} is not above 0.")
        self.model, self.null, self.scale = model, null, scale
        self.inner, self.lr = inner, lr
        self.up = ProbabilityFlow(model, steps=steps, start=strength, solver=ExponentialAdams())

    @classmethod
    def build(
        cls,
        model: ScoreModel,
        null: Condition | None,
        *,
        scale: float,
        options: Mapping[str, Any],
    ) -> "Edit":
        """The edit that fits `null` at this scale."""
        if not null:
            raise ValueError("Null-text optimisation needs a new prompt and a model of words.")
        return cls(model, null, scale=scale, **options)

    def walk(
        self,
        x_0: State,
        source: Condition | None,
        target: Condition | None,
        rng: Sequence[Generator],
        mask: Tensor | None,
    ) -> Iterator[EditStep]:
        """Up, then both chains down; outside of a mask the second is the first."""
        goals, total = [], 2 * self.up.count
        for step in self.up.steps(x_0, source, invert=True):
            goals.append(step.x)
            if step.index:
                yield EditStep(step.index, total, x_0 if step.x_0 is None else step.x_0)
        old, new = Field(self.model, source), Field(self.model, target)
        null = {k: v.to(x_0.device) for k, v in self.null.expand(len(x_0)).items()}
        x = edited = goals.pop()
        for index, (node, then) in enumerate(pairwise(old.nodes(self.up.times))):
            told = _euler(old(x, node.t), then)
            rate = self.lr * (1 - index / total)
            null, reached = self._fit(x, node, then, told, goals.pop(), null, rate)
            seen = old.model(edited, node.t, Condition(null))
            there = new(edited, node.t)
            edited = self.scale * _euler(there, then) + (1 - self.scale) * _euler(seen, then)
            x = reached
            if mask is not None:
                edited = blend(edited, x, mask)
            guess = self.scale * there.x_0 + (1 - self.scale) * seen.x_0
            last = index == self.up.count - 1
            yield EditStep(
                self.up.count + index + 1, total, edited / then.alpha if last else guess
            )

    def _fit(
        self,
        x: Tensor,
        node: Node,
        then: Node,
        told: Tensor,
        goal: Tensor,
        null: dict[str, Tensor],
        rate: float,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The best null condition seen, a row a row, and where it leads."""
        free = {k: v.clone().requires_grad_() for k, v in null.items() if v.is_floating_point()}
        adam = torch.optim.Adam(free.values(), lr=rate)  # by element: rows do not mix
        best, reached, least = null, told, told.new_full((len(told),), torch.inf)
        for turn in range(self.inner + 1):
            with torch.enable_grad():
                seen = self.model(x, node.t, Condition(null | free))
                end = self.scale * told + (1 - self.scale) * _euler(seen, then)
                loss = (end - goal).square().flatten(1).mean(1)
                total = loss.sum()
            better = loss.detach() < least
            least = torch.where(better, loss.detach(), least)
            reached = _choose(better, end.detach(), reached)
            best = best | {k: _choose(better, v.detach(), best[k]) for k, v in free.items()}
            if turn < self.inner:
                slopes = torch.autograd.grad(total, list(free.values()))
                for tensor, slope in zip(free.values(), slopes, strict=True):
                    tensor.grad = slope
                adam.step()
        return best, reached


def _euler(known: Prediction, then: Node) -> Tensor:
    """Euler's step: both the mean and the noise as they are."""
    return then.alpha * known.x_0 + then.sigma * known.eps


def _choose(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
