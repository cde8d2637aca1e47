"""Euler's method, which is DDIM.

    x_s = alpha_s x_0_hat + sigma_s eps_hat

It follows the straight line in (x / alpha, sigma / alpha), and in (x / (alpha + sigma),
sigma / (alpha + sigma)) the same one: x_0 and eps are frozen over the step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from sdstoolkit.solvers.base import Field, Mark, Node, Solver

__all__ = ["Euler"]


@dataclass(frozen=True)
class Euler(Solver):
    """First order: x_s = alpha_s x_0_hat + sigma_s eps_hat; finite at every end of a schedule.

    Network evaluations: 1 a step.

    Song, Meng and Ermon (DDIM with eta = 0), 2021, https://arxiv.org/abs/2010.02502.
    """

    def walk(
        self, field: Field, nodes: Sequence[Node], x: Tensor, memory: tuple[Tensor, ...] = ()
    ) -> Iterator[Mark]:
        """The states at the nodes."""
        yield Mark(x)
        for node, then in pairwise(nodes):
            known = field(x, node.t)
            x = then.alpha * known.x_0 + then.sigma * known.eps
            yield Mark(x, x_0=known.x_0)
