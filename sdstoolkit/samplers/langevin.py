"""Unadjusted Langevin dynamics (ULA).

    x <- x + h s(x) + sqrt(2 h) z,   z ~ N(0, I),   s = grad log p

is the Euler-Maruyama step of dx = s dt + sqrt(2) dW, whose stationary law is p. Half of the
literature writes x + (eta / 2) s + sqrt(eta) z instead; the two are the same step at h = eta / 2,
and `step` here is h everywhere. The chain's own stationary law is not p: on N(0, 1) its variance
is 1 / (1 - h / 2), too large by a half of h to first order, and there is none from h = 2 on.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.samplers._walk import Draw, Sampler, Target, field, place, positive
from sdstoolkit.score import ScoreModel

__all__ = ["Langevin"]


class Langevin(Sampler):
    """Unadjusted Langevin dynamics, x <- x + h s(x) + sqrt(2 h) z.

    One score evaluation a step and row. Where the law's steepest curvature is L, h < 2 / L is
    stable; the bias in the variance is about h L / 2. `report["drift"]` is the last step's
    h |s|^2 / (2 D), the drift's square over the noise's: h L / 2 where all is well, and without
    bound where it is not.

    Roberts and Tweedie, 1996, https://doi.org/10.2307/3318418.

    Args:
        target: a density, or a score model whose law at `t` is meant.
        step: h, above 0.
        steps: how many, at least 1.
        t: time of a score model, in (0, 1].

    Raises:
        ValueError: numbers out of range; when run, as `field`, or rows that diverged.
    """

    def __init__(
        self, target: Target | ScoreModel, *, step: float, steps: int, t: float | None = None
    ) -> None:
        positive(step=step, steps=steps)
        self.target, self.shape = target, target.shape
        self.step, self.count, self.t = step, steps, t

    def walk(self, x: Tensor, draw: Draw, condition: Condition | None) -> Iterator[Tensor]:
        """The states after x."""
        score, h = field(self.target, self.t, condition), self.step
        for k in range(self.count):
            s = score(x)
            if k == 0:
                self.report["first drift"] = float(h / 2 * s.square().mean())
            if k + 1 == self.count:
                self.report["drift"] = float(h / 2 * s.square().mean())
            x = x + h * s + (2 * h) ** 0.5 * draw.normal()
            yield x

    def finish(self, steps: int) -> None:
        """Refuse a chain that is blowing up though it is still finite."""
        drift, first = self.report["drift"], self.report["first drift"]
        if not (drift < 100 or drift < first):  # a far start has a large drift that falls
            raise ValueError(
                f"Langevin diverged: at the last of {steps} steps of {self.step:g} the drift's "
                f"square is {drift:.3g} times the noise's, expected less than 1; "
                "take a smaller step."
            )

    def device(self) -> torch.device:
        """The target's device."""
        return place(self.target)
