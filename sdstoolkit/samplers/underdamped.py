"""Underdamped (kinetic) Langevin dynamics: the score pushes a velocity, which moves the state.

    dx = v dt,   dv = s(x) dt - gamma v dt + sqrt(2 gamma) dW,   stationary p(x) N(v; 0, I)

solved by the splitting BAOAB (Leimkuhler and Matthews, 2013, https://doi.org/10.1093/amrx/abs010):
half a kick B, half a drift A, the exact Ornstein-Uhlenbeck step O of the velocity, A, B. On a
Gaussian of curvature L the law of x is exact for every h < 2 / sqrt(L), and that of the velocity
has the variance 1 - h^2 L / 4; elsewhere the bias falls with h^2.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.samplers._walk import Draw, Sampler, Target, field, place, positive
from sdstoolkit.score import ScoreModel

__all__ = ["Underdamped"]


class Underdamped(Sampler):
    """Kinetic Langevin dynamics of unit mass, by BAOAB.

        v += h/2 s;  x += h/2 v;  v = c v + sqrt(1 - c^2) z;  x += h/2 v;  v += h/2 s

    with c = exp(-gamma h). One score evaluation a step and row. `report["temperature"]` is the
    last velocities' mean square, 1 - h^2 L / 4 for a law of curvature L: far from 1, the step is
    too large.

    Args:
        target: a density, or a score model whose law at `t` is meant.
        step: h, above 0; a time, the root of what `Langevin` calls a step.
        steps: how many, at least 1.
        friction: gamma, above 0; about the root of the curvature mixes fastest.
        t: time of a score model, in (0, 1].

    Raises:
        ValueError: numbers out of range; when run, as `field`, or rows that diverged.
    """

    def __init__(
        self,
        target: Target | ScoreModel,
        *,
        step: float,
        steps: int,
        friction: float = 1.0,
        t: float | None = None,
    ) -> None:
        positive(step=step, steps=steps, friction=friction)
        self.target, self.shape = target, target.shape
        self.step, self.count, self.friction, self.t = step, steps, friction, t

    def walk(self, x: Tensor, draw: Draw, condition: Condition | None) -> Iterator[Tensor]:
        """The states after x; the velocity starts in its stationary law."""
        score, half = field(self.target, self.t, condition), self.step / 2
        keep = math.exp(-self.friction * self.step)
        fresh = math.sqrt(-math.expm1(-2 * self.friction * self.step))
        v, s = draw.normal(), score(x)
        for k in range(self.count):
            v = v + half * s
            x = x + half * v
            v = keep * v + fresh * draw.normal()
            x = x + half * v
            s = score(x)
            v = v + half * s
            if k + 1 == self.count:
                self.report["temperature"] = float(v.square().mean())
            yield x

    def finish(self, steps: int) -> None:
        """Refuse a chain that is blowing up though it is still finite."""
        if not self.report["temperature"] < 1e4:
            raise ValueError(
                f"Underdamped diverged: after {steps} steps of {self.step:g} the velocities' mean "
                f"square is {self.report['temperature']:.3g}, expected about 1; take a smaller "
                "step."
            )

    def device(self) -> torch.device:
        """The target's device."""
        return place(self.target)
