"""Prompt swap: invert under one condition, sample under another.

    x_s = Phi_{0 -> s}(x_0; source),   x_0' = Phi_{s -> 0}(x_s; target)

With s = strength = 1 the image goes all the way to noise; a lower strength keeps its layout.
"""

from collections.abc import Iterator, Sequence

from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.edit.base import Edit, EditStep, check_strength
from sdstoolkit.edit.masks import confine
from sdstoolkit.samplers import ProbabilityFlow
from sdstoolkit.score import ScoreModel
from sdstoolkit.solvers import ExponentialAdams, Solver

__all__ = ["PromptSwap"]


class PromptSwap(Edit):
    """Invert and edit along the flow, x_0' = Phi_{s -> 0}(Phi_{0 -> s}(x_0; source); target).

    Network evaluations: twice the solver's; a guided model's count twice.

    Song, Meng and Ermon, 2021, https://arxiv.org/abs/2010.02502; Dhariwal and Nichol, 2021.

    Args:
        model: the model to invert with, best without guidance.
        guided: the model to sample with; the same by default.
        steps: how many steps each way, at least 1.
        strength: how far to go, a time in (0, 1].
        solver: the method that follows the flow; `ExponentialAdams()` by default.

    Raises:
        ValueError: one of these is out of range.
    """

    def __init__(
        self,
        model: ScoreModel,
        guided: ScoreModel | None = None,
        *,
        steps: int = 50,
        strength: float = 1.0,
        solver: Solver | None = None,
    ) -> None:
        check_strength(strength)
        self.steps_each_way, self.strength = steps, strength
        self.solver = solver or ExponentialAdams()
        self.up, self.down = self._flow(model), self._flow(guided or model)

    def _flow(self, model: ScoreModel) -> ProbabilityFlow:
        return ProbabilityFlow(
            model, steps=self.steps_each_way, start=self.strength, solver=self.solver
        )

    def walk(
        self,
        x_0: State,
        source: Condition | None,
        target: Condition | None,
        rng: Sequence[Generator],
        mask: Tensor | None,
    ) -> Iterator[EditStep]:
        """Up and down; nothing is drawn. With a mask the companion of the way up is dropped."""
        for step in self.up.steps(x_0, source, invert=True):
            if step.index:
                yield EditStep(step.index, 2 * step.steps, x_0 if step.x_0 is None else step.x_0)
        model, condition = confine(self.down.model, target, step.x, self.down.times[0], x_0, mask)
        down = self.down if mask is None else self._flow(model)
        memory = step.memory if self.solver.keeps and mask is None else ()
        for then in down.steps(step.x, condition, memory=memory):
            if then.index:
                seen = down.clean(then) if then.index == then.steps else then.x_0
                index = then.steps + then.index
                yield EditStep(index, 2 * then.steps, x_0 if seen is None else seen)
