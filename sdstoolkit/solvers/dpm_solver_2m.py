"""DPM-Solver++(2M), the second-order multistep method of most image pipelines.

    x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D,   D = (1 + 1 / 2r) x_0 - 1 / 2r x_0_past

with h = lambda_s - lambda_t, lambda = log(alpha / sigma), and r the past step over this.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from sdstoolkit.solvers.base import Field, Mark, Node, Solver

__all__ = ["DPMSolver2M"]


@dataclass(frozen=True)
class DPMSolver2M(Solver):
    """Second order, x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D.

    The first step, and one from or to an end without signal or noise, is Euler's.

    Network evaluations: 1 a step.

    Lu et al., 2022, https://arxiv.org/abs/2211.01095.
    """

    def walk(
        self, field: Field, nodes: Sequence[Node], x: Tensor, memory: tuple[Tensor, ...] = ()
    ) -> Iterator[Mark]:
        """The states at the nodes."""
        yield Mark(x)
        past: tuple[float, Tensor] | None = None
        for node, then in pairwise(nodes):
            known = field(x, node.t)
            at = node.log_ratio
            h = then.log_ratio - at
            if math.isinf(h):
                x = then.alpha * known.x_0 + then.sigma * known.eps
            else:
                D = known.x_0
                if past is not None:
                    D = D + (h / (2 * (at - past[0]))) * (D - past[1])
                x = (then.sigma / node.sigma) * x - then.alpha * math.expm1(-h) * D
                past = at, known.x_0
            yield Mark(x, x_0=known.x_0)
