"""Edit-friendly DDPM: the noise maps that make the reverse chain pass through the image.

The image is noised at every time on its own, x_t = alpha_t x_0 + sigma_t eps_t, and the reverse
step from t to s is written with what is left over,

    x_s = mu(x_t; source) + r_s,   x_s' = mu(x_t'; target) + r_s,
    mu = (a sigma_s^2 / sigma_t^2) x_t + (alpha_s (1 - a^2 sigma_s^2 / sigma_t^2)) x_0_hat,

a = alpha_t / alpha_s. Both chains are walked side by side, so that no map has to be kept. With
target = source the second is the first, exactly.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.edit.base import Edit, EditStep, check_strength
from sdstoolkit.edit.masks import blend
from sdstoolkit.grids import Grid, UniformTime
from sdstoolkit.rng import normal
from sdstoolkit.score import ScoreModel
from sdstoolkit.solvers import Field, Node

__all__ = ["DDPM"]


class DDPM(Edit):
    """The reverse chain with the image's own residuals, x_s' = mu(x_t'; target) + r_s.

    Network evaluations: 2 a step.

    Huberman-Spiegelglas, Kulikov and Michaeli, 2023, https://arxiv.org/abs/2304.06140.

    Args:
        model: the model for the source, best without guidance.
        guided: the model for the target; the same by default.
        strength: where to begin, a time in (0, 1].
        steps: how many steps, at least 1.
        grid: where the steps lie, even in time by default.

    Raises:
        ValueError: one of these is out of range.
    """

    def __init__(
        self,
        model: ScoreModel,
        guided: ScoreModel | None = None,
        *,
        strength: float = 0.65,
        steps: int = 50,
        grid: Grid | None = None,
    ) -> None:
        check_strength(strength)
        self.model, self.guided = model, guided or model
        self.times = (grid or UniformTime())(model.schedule, steps, strength, 0.0)

    def walk(
        self,
        x_0: State,
        source: Condition | None,
        target: Condition | None,
        rng: Sequence[Generator],
        mask: Tensor | None,
    ) -> Iterator[EditStep]:
        """Both chains, side by side; outside of a mask the second is the first."""
        old, new = Field(self.model, source), Field(self.guided, target)
        nodes = old.nodes(self.times)
        steps = len(nodes) - 1
        x_t = edited = _noised(x_0, nodes[0], rng)
        for index, (node, then) in enumerate(pairwise(nodes), start=1):
            x_s = then.alpha * x_0 if index == steps else _noised(x_0, then, rng)
            mean = _mean(node, then, x_t, old(x_t, node.t).x_0)
            seen = new(edited, node.t).x_0
            there = _mean(node, then, edited, seen)
            x_t, edited = x_s, there + (x_s - mean)
            if mask is not None:
                edited = blend(edited, x_t, mask)
            yield EditStep(index, steps, edited / then.alpha if index == steps else seen)


def _noised(x_0: Tensor, node: Node, rng: Sequence[Generator]) -> Tensor:
    return node.alpha * x_0 + node.sigma * normal(rng, x_0.shape[1:]).to(x_0)


def _mean(node: Node, then: Node, x_t: Tensor, x_0: Tensor) -> Tensor:
    """E[x_s | x_t, x_0] of the forward kernel."""
    a = node.alpha / then.alpha
    share = (then.sigma / node.sigma) ** 2
    return (a * share) * x_t + (then.alpha * (1 - a * a * share)) * x_0
