"""Stein variational gradient descent: particles that follow the score and repel each other.

    x_i <- x_i + h phi_i,   phi_i = 1/n sum_j [k(x_j, x_i) s(x_j) + grad_(x_j) k(x_j, x_i)]

phi is the direction in which the KL divergence from the particles' law to p falls fastest, among
fields of unit norm in the kernel's space (Liu and Wang, 2016, https://arxiv.org/abs/1608.04471).
Nothing is random but the start, and every row depends on every other. The repulsion is weak in
many dimensions, where the particles' spread comes out too small.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.samplers._walk import Draw, Sampler, Target, field, place, positive
from sdstoolkit.score import ScoreModel

__all__ = ["SVGD"]


class SVGD(Sampler):
    """Stein variational gradient descent with a Gaussian kernel, k(x, y) = exp(-|x - y|^2 / b).

        b = median(|x_i - x_j|)^2 / log(n + 1)

    One score evaluation a step and row, and n^2 D operations. `report["speed"]` is the last step's
    root mean square of phi; it tends to 0.

    Args:
        target: a density, or a score model whose law at `t` is meant.
        step: h, above 0.
        steps: how many, at least 1.
        bandwidth: b, above 0; by default the rule above, at every step anew.
        t: time of a score model, in (0, 1].

    Raises:
        ValueError: numbers out of range; when run, as `field`, fewer than two rows, or rows that
            diverged.
    """

    def __init__(
        self,
        target: Target | ScoreModel,
        *,
        step: float,
        steps: int,
        bandwidth: float | None = None,
        t: float | None = None,
    ) -> None:
        positive(step=step, steps=steps, bandwidth=1.0 if bandwidth is None else bandwidth)
        self.target, self.shape = target, target.shape
        self.step, self.count, self.bandwidth, self.t = step, steps, bandwidth, t

    def walk(self, x: Tensor, draw: Draw, condition: Condition | None) -> Iterator[Tensor]:
        """The states after x."""
        if len(x) < 2:
            raise ValueError("SVGD moves particles by each other; ask for n = 2 or more.")
        score, n = field(self.target, self.t, condition), len(x)
        for k in range(self.count):
            flat = x.flatten(1)
            squares = torch.cdist(flat, flat).square()
            b = self.bandwidth or _median(squares) / math.log(n + 1)
            kernel = torch.exp(-squares / b)
            pull = kernel @ score(x).flatten(1)
            push = 2 / b * (kernel.sum(1, keepdim=True) * flat - kernel @ flat)
            phi = ((pull + push) / n).reshape(x.shape)
            if k + 1 == self.count:
                self.report["speed"] = float(phi.square().mean().sqrt())
            x = x + self.step * phi
            yield x

    def device(self) -> torch.device:
        """The target's device."""
        return place(self.target)


def _median(squares: Tensor) -> Tensor:
    n = len(squares)
    i, j = torch.triu_indices(n, n, offset=1, device=squares.device)
    return squares[i, j].median()
