"""Prompt swap: invert under one condition, sample under another.

    x_s = Phi_{0 -> s}(x_0; source),   x_0' = Phi_{s -> 0}(x_s; target)

With s = strength = 1 the image goes all the way to noise; a lower strength keeps its layout.
"""

from collections.abc import Sequence

from torch import Generator

from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.edit.base import Edit
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
        steps: each way.
        strength: how far to go, a time in (0, 1].
        solver: one of `sdstoolkit.solvers`.

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
        if not 0 < strength <= 1:
            raise ValueError(f"strength = {strength} is not in (0, 1].")
        solver = solver or ExponentialAdams()
        self.up = ProbabilityFlow(model, steps=steps, start=strength, solver=solver)
        self.down = ProbabilityFlow(guided or model, steps=steps, start=strength, solver=solver)

    def edit(
        self,
        x_0: State,
        source: Condition | None,
        target: Condition | None,
        rng: Sequence[Generator],
    ) -> State:
        """The edited x_0; nothing is drawn."""
        return self.down.edit(self.up.invert(x_0, source), target)
