"""Negative-prompt inversion: what the image shows is what guidance leads away from.

    eps_hat = eps_hat(source) + scale (eps_hat(target) - eps_hat(source))

With target = source this is the conditional model at every scale, so that an inversion without
guidance is undone with guidance: what null-text optimisation reaches by training, for nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.edit.base import Edit, EditStep, check_strength
from sdstoolkit.edit.prompt_swap import PromptSwap
from sdstoolkit.guidance import ClassifierFree
from sdstoolkit.score import ScoreModel
from sdstoolkit.solvers import Solver

__all__ = ["NegativePrompt"]


class NegativePrompt(Edit):
    """`PromptSwap` whose sampling is guided away from the source condition.

        eps_hat = eps_hat(source) + scale (eps_hat(target) - eps_hat(source))

    Network evaluations: three times the solver's; twice at `scale=1`.

    Miyake et al., 2023, https://arxiv.org/abs/2305.16807.

    Args:
        model: the model without guidance.
        scale: of the guidance; 1 is `PromptSwap`.
        steps: how many steps each way, at least 1.
        strength: how far to go, a time in (0, 1].
        solver: the method that follows the flow; `ExponentialAdams()` by default.

    Raises:
        ValueError: one of these is out of range.
    """

    def __init__(
        self,
        model: ScoreModel,
        *,
        scale: float,
        steps: int = 50,
        strength: float = 1.0,
        solver: Solver | None = None,
    ) -> None:
        check_strength(strength)
        self.model, self.scale = model, scale
        self.count, self.strength, self.solver = steps, strength, solver

    @classmethod
    def build(
        cls,
        model: ScoreModel,
        null: Condition | None,
        *,
        scale: float,
        options: Mapping[str, Any],
    ) -> "Edit":
        """The edit at this scale; the source takes the place of `null`."""
        return cls(model, scale=scale, **options)

    def walk(
        self,
        x_0: State,
        source: Condition | None,
        target: Condition | None,
        rng: Sequence[Generator],
        mask: Tensor | None,
    ) -> Iterator[EditStep]:
        """The way of a `PromptSwap`; nothing is drawn."""
        guided = ClassifierFree(self.model, source or Condition(), scale=self.scale)
        swap = PromptSwap(
            self.model, guided, steps=self.count, strength=self.strength, solver=self.solver
        )
        yield from swap.walk(x_0, source, target, rng, mask)
