"""FlowEdit: from image to image along the difference of two velocities, without an inversion.

In y = x / (alpha + sigma) and u = sigma / (alpha + sigma), with fresh noise n at every step,

    y = (1 - u) x_0 + u n,   z(u_s) = x_0,
    dz/du = E_n[v(z + y - x_0, u; target) - v(y, u; source)],

with the velocity v = eps_hat - x_0_hat of any parameterisation and any schedule. With target =
source nothing moves.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.edit.base import Edit, EditStep, check_strength
from sdstoolkit.grids import Grid, NoiseFraction
from sdstoolkit.rng import normal
from sdstoolkit.score import ScoreModel
from sdstoolkit.solvers import Field

__all__ = ["FlowEdit"]


class FlowEdit(Edit):
    """The difference of two velocities, dz/du = E[v(z + y - x_0; target) - v(y; source)].

    Network evaluations: 2 a step and draw.

    Kulikov, Kleiner, Huberman-Spiegelglas and Michaeli, 2024, https://arxiv.org/abs/2412.08629.

    Args:
        model: the model for the source, with little guidance or none.
        guided: the model for the target; the same by default.
        strength: where to begin (s), a time in (0, 1].
        steps: how many steps, at least 1.
        draws: how many noises to average over at every step, at least 1.
        grid: where the steps lie, even in u by default.

    Raises:
        ValueError: one of these is out of range.
    """

    def __init__(
        self,
        model: ScoreModel,
        guided: ScoreModel | None = None,
        *,
        strength: float = 0.85,
        steps: int = 50,
        draws: int = 1,
        grid: Grid | None = None,
    ) -> None:
        check_strength(strength)
        if draws < 1:
            raise ValueError(f"draws = {draws} is not at least 1.")
        self.model, self.guided, self.draws = model, guided or model, draws
        self.times = (grid or NoiseFraction())(model.schedule, steps, strength, 0.0)

    def walk(
        self,
        x_0: State,
        source: Condition | None,
        target: Condition | None,
        rng: Sequence[Generator],
        mask: Tensor | None,
    ) -> Iterator[EditStep]:
        """From image to image; outside of a mask z stays x_0."""
        old, new = Field(self.model, source), Field(self.guided, target)
        z, nodes = x_0, old.nodes(self.times)
        for index, (node, then) in enumerate(pairwise(nodes), start=1):
            u = node.sigma / (node.alpha + node.sigma)
            h = then.sigma / (then.alpha + then.sigma) - u
            scale = node.alpha + node.sigma
            move = torch.zeros_like(z)
            for _ in range(self.draws):
                y = (1 - u) * x_0 + u * normal(rng, x_0.shape[1:]).to(x_0)
                there = new(scale * (z + (y - x_0)), node.t).flow
                move = move + (there - old(scale * y, node.t).flow)
            z = z + (h / self.draws) * (move if mask is None else mask * move)
            yield EditStep(index, len(nodes) - 1, z)
