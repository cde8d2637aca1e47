"""Exponential Adams methods on the log-SNR; the default solver.

With lambda = log(alpha / sigma) the flow is linear but for the posterior mean, and exactly

    x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^h e^(tau - h) x_0_hat(lambda_t + tau) dtau,

h = lambda_s - lambda_t. The last few posterior means are interpolated by a polynomial in lambda,
and the integral is taken in closed form (Hochbruck and Ostermann, Exponential integrators, 2010,
https://doi.org/10.1017/S0962492910000048; Zhang and Chen, 2023, https://arxiv.org/abs/2204.13902,
do so for the noise). Order 1 is DDIM. The corrector takes the step once more when the mean at its
end is known, which is the next step's evaluation and costs nothing (Zhao et al., UniPC, 2023,
https://arxiv.org/abs/2302.04867).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sdstoolkit.solvers.base import Field, Mark, Node, Solver

__all__ = ["ExponentialAdams"]

_LONG = 0.25


@dataclass(frozen=True, kw_only=True)
class ExponentialAdams(Solver):
    """Order k from one evaluation a step, x_s = (sigma_s / sigma_t) x_t + alpha_s sum_j w_j x_0_j.

    The weights are those of the nodes as they lie, whatever the grid. The order rises from 1 over
    the first steps; a step from or to an end without signal or noise is Euler's.

    With the corrector, every sampling step is taken again with the mean at its end, and order 2
    predicts the steps that are longer than 0.25 in lambda; an inversion corrects its first steps
    only. On mixtures that measured best: see docs/benchmarks/flow.md.

    Network evaluations: 1 a step.

    Args:
        order: how many posterior means a prediction combines, 1 to 4.
        corrector: correct the steps; False is the Adams-Bashforth method as it stands.

    Raises:
        ValueError: such an order.
    """

    order: int = 3
    corrector: bool = True

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"order = {self.order} is not one of 1, 2, 3 and 4.")

    def walk(
        self, field: Field, nodes: Sequence[Node], x: Tensor, memory: tuple[Tensor, ...] = ()
    ) -> Iterator[Mark]:
        """The states at the nodes, each before it is corrected."""
        yield Mark(x)
        down = nodes[0].t > nodes[-1].t
        past: list[tuple[float, Tensor]] = []  # (lambda, x_0_hat), the newest first
        step: tuple[Node, Tensor, int] | None = None  # where the last one started, and its order
        for i, (node, then) in enumerate(pairwise(nodes)):
            known = field(x, node.t)
            h = then.log_ratio - node.log_ratio
            if math.isinf(h):
                x, past, step = then.alpha * known.x_0 + then.sigma * known.eps, [], None
            else:
                past = [(node.log_ratio, known.x_0), *past][: self.order + 1]
                if step is not None and self.corrector and (down or i < self.order):
                    x = _step(*step[:2], node, past[: step[2] + down])
                long = self.corrector and down and abs(h) > _LONG
                order = min(self.order, 2) if long else self.order
                step = node, x, order
                x = _step(node, x, then, past[:order])
            yield Mark(x, x_0=known.x_0)


def _step(node: Node, x: Tensor, then: Node, past: Sequence[tuple[float, Tensor]]) -> Tensor:
    """From node to then with the posterior means at some places."""
    weights = _weights([place for place, _ in past], node.log_ratio, then.log_ratio)
    x = (then.sigma / node.sigma) * x
    for weight, (_, mean) in zip(weights, past, strict=True):
        x = x + (then.alpha * weight) * mean
    return x


def _weights(places: Sequence[float], start: float, stop: float) -> list[float]:
    """The w of int_0^h e^(tau - h) p(tau) dtau = sum_j w_j p(tau_j) for p of degree < len(places).

    In theta = tau / h: sum_j w_j theta_j^k = h mu_k, mu_k = int_0^1 theta^k e^(h (theta - 1)).
    """
    h = stop - start
    theta = (torch.tensor(places, dtype=torch.float64) - start) / h
    powers = theta ** torch.arange(len(places), dtype=torch.float64)[:, None]
    moments = torch.tensor(_moments(h, len(places)), dtype=torch.float64)
    weights: list[float] = (h * torch.linalg.solve(powers, moments)).tolist()
    return weights


def _moments(h: float, count: int) -> list[float]:
    """mu_k for k < count; by its series where the recursion would cancel."""
    if abs(h) < 1:
        return [
            sum((-h) ** j * math.factorial(k) / math.factorial(k + 1 + j) for j in range(18))
            for k in range(count)
        ]
    moments = [-math.expm1(-h) / h]
    for k in range(1, count):
        moments.append((1 - k * moments[-1]) / h)
    return moments
