"""SDEdit: add noise, and take it away under another condition.

x_s = alpha_s x_0 + sigma_s eps,   x_0' = Phi_{s -> 0}(x_s; target)
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Generator

from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.edit.base import Edit
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
        strength: s, how much noise, a time in (0, 1].
        steps: of the sampling.
        solver: one of `sdstoolkit.solvers`.

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
        if not 0 < strength <= 1:
            raise ValueError(f"strength = {strength} is not in (0, 1].")
        solver = solver or ExponentialAdams()
        self.flow = ProbabilityFlow(model, steps=steps, start=strength, solver=solver)

    def edit(
        self,
        x_0: State,
        source: Condition | None,
        target: Condition | None,
        rng: Sequence[Generator],
    ) -> State:
        """The edited x_0; `source` has no influence."""
        flow = self.flow
        eps = normal(rng, x_0.shape[1:]).to(x_0)
        level = flow.model.schedule.level(flow.times[0], x_0)
        last = deque(flow.steps(level.perturb(x_0, eps), target), maxlen=1).pop()
        alpha: torch.Tensor = flow.model.schedule(flow.times[-1:])[0]
        return last.x / alpha.item()
