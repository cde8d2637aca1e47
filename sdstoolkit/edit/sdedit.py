"""SDEdit: add noise, and take it away under another condition.

x_s = alpha_s x_0 + sigma_s eps,   x_0' = Phi_{s -> 0}(x_s; target)
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.edit.base import Edit, EditStep, check_strength, guide
from sdstoolkit.edit.masks import confine
from sdstoolkit.rng import normal
from sdstoolkit.samplers import ProbabilityFlow
from sdstoolkit.score import ScoreModel
from sdstoolkit.solvers import ExponentialAdams, Solver

__all__ = ["SDEdit"]


class SDEdit(Edit):
    """Sampling from the noised image, x_0' = Phi_{s -> 0}(alpha_s x_0 + sigma_s eps; target).

    Network evaluations: the solver's.

    Meng et al., 2022, https://arxiv.org/abs/2108.01073.

    Args:
        model: the model to sample with, guided or not.
        strength: how much noise to add (s), a time in (0, 1].
        steps: how many steps to sample in, at least 1.
        solver: the method that follows the flow; `ExponentialAdams()` by default.

    Raises:
        ValueError: one of these is out of range.
    """

    def __init__(
        self,
        model: ScoreModel,
        *,
        strength: float = 0.6,
        steps: int = 50,
        solver: Solver | None = None,
    ) -> None:
        check_strength(strength)
        self.count, self.strength = steps, strength
        self.solver = solver or ExponentialAdams()
        self.flow = self._flow(model)

    def _flow(self, model: ScoreModel) -> ProbabilityFlow:
        return ProbabilityFlow(
            model, steps=self.count, start=self.strength, solver=self.solver
        )

    @classmethod
    def build(
        cls,
        model: ScoreModel,
        null: Condition | None,
        *,
        scale: float,
        options: Mapping[str, Any],
    ) -> "Edit":
        """The edit with guided sampling."""
        return cls(guide(model, null, scale), **options)

    def walk(
        self,
        x_0: State,
        source: Condition | None,
        target: Condition | None,
        rng: Sequence[Generator],
        mask: Tensor | None,
    ) -> Iterator[EditStep]:
        """The way down; `source` has no influence."""
        start = self.flow.times[0]
        eps = normal(rng, x_0.shape[1:]).to(x_0)
        x_t = self.flow.model.schedule.level(start, x_0).perturb(x_0, eps)
        model, condition = confine(self.flow.model, target, x_t, start, x_0, mask)
        flow = self.flow if mask is None else self._flow(model)
        for step in flow.steps(x_t, condition):
            if step.index:
                seen = flow.clean(step) if step.index == step.steps else step.x_0
                yield EditStep(step.index, step.steps, x_0 if seen is None else seen)
