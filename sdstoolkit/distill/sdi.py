"""Score distillation via inversion: DDIM, seen from the clean image.

SDS with the noise kappa that DDIM would have at this place instead of a random one,

    x_t = alpha x_0 + sigma kappa,   G = w (x_0 - x_0_hat(x_t)) / r = w (eps_hat(x_t) - kappa).

Remembering kappa = eps_hat of the level before, and going all the way to x_0_hat at falling t, is
DDIM to rounding: on a canvas that is x_0 itself, plain gradient descent with a rate of 1 does it.
Where x_0 did not get to where it was sent, kappa is found anew by inverting x_0 to t, with
guidance the other way as in the paper.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sdstoolkit._typing import State
from sdstoolkit.distill._inversion import check_stride, invert
from sdstoolkit.distill._memory import Memory
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import NoiseRatio, Weight
from sdstoolkit.grids import LinearAnneal
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prediction import Prediction
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel

__all__ = ["SDI"]

_WEIGHT, _LAW = NoiseRatio(), LinearAnneal()


class SDI(Distiller):
    """Score distillation via inversion.

        G = w (x_0 - x_0_hat(alpha x_0 + sigma kappa)) / r,   w = r

    kappa is a draw at first; then the last prediction of the noise where x_0 has arrived at the
    target that came with it, to a thousandth, and x_0's noise by inversion elsewhere. A target
    x_0_hat is kept for a part of the run, one of `refreshes`; in between a step costs nothing.

    Network evaluations a row: 2 where a target is made, and 2 ceil(t / stride) more where some row
    is inverted; 0 elsewhere. Half of it at `scale=1`. Waits for the device where a target is made.

    Lukoianov et al., 2024, https://arxiv.org/abs/2405.15891.

    Args:
        model, prompt, negative, scale, weight, t_law, limits: as `Distiller`; t should fall.
        remember: take the last prediction for kappa wherever x_0 is.
        refreshes: how many targets in a run, at least 1; None makes one at every call.
        stride: the longest step of the inversion, in (0, 1].
        inversion_scale: of the guidance on the way up; None for 2 - scale.
        eta: share of new noise on the way up, in [0, 1]; at 0 the image itself begins it, which
            gives kappa less spread than noise has.

    Raises:
        ValueError: a number is out of range, or as `Distiller`.
    """

    card = Card(
        rows=(0, 22),
        paper="Lukoianov et al., 2024",
        link="https://arxiv.org/abs/2405.15891",
        scale=5.0,
        lr=1.0,
        optimizer="sgd",
        bad_at="a canvas that cannot follow its targets; the inversions cost ten rows a target",
    )

    def __init__(
        self,
        model: Prior | ScoreModel,
        prompt: Prompt = None,
        *,
        negative: Prompt = None,
        scale: float = 1.0,
        weight: Weight = _WEIGHT,
        t_law: TimeDraw = _LAW,
        limits: Sequence[Limit] = (),
        remember: bool = False,
        refreshes: int | None = 40,
        stride: float = 0.1,
        inversion_scale: float | None = None,
        eta: float = 0.3,
    ) -> None:
        check_stride(stride)
        if (refreshes is not None and refreshes < 1) or not 0 <= eta <= 1:
            raise ValueError(
                f"refreshes is {refreshes} and eta {eta}, expected from 1 on and in [0, 1]."
            )
        super().__init__(
            model,
            prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.remember, self.refreshes, self.stride, self.eta = remember, refreshes, stride, eta
        self.inversion_scale = 2 - self.scale if inversion_scale is None else inversion_scale
        if self.null is None and self.inversion_scale != 1:
            raise ValueError(
                f"inversion_scale is {self.inversion_scale}, but scale = 1 has no null prompt."
            )
        self._noise, self._target, self._made_at = Memory(), Memory(), -1.0

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """(x_0 - target) / r."""
        target = self._target.recall(self.rng, x_0) if self._lasts() else None
        if target is None:
            kappa = self._kappa(x_0, level, eps)
            seen = self.guided(level.perturb(x_0, kappa), level)
            self._noise.keep(self.rng, seen.eps)
            target = self._target.keep(self.rng, seen.x_0)
            self._made_at = self.progress
        self._x_0_hat = target
        return (x_0 - target) / level.ratio

    def state(self) -> dict[str, Tensor]:
        """The last prediction, the target, and when that was made."""
        made = {"made_at": torch.tensor(self._made_at, dtype=torch.float64)}
        return made | self._noise.state("noise") | self._target.state("target")

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from it."""
        self._made_at = float(state["made_at"])
        self._noise.restore(state, "noise")
        self._target.restore(state, "target")

    def _lasts(self) -> bool:
        """Whether the last target still counts: a later call of the same part of the run."""
        if self.refreshes is None or not self.progress > self._made_at >= 0:
            return False
        return int(self.progress * self.refreshes) == int(self._made_at * self.refreshes)

    def _kappa(self, x_0: State, level: NoiseLevel, eps: State) -> State:
        """The noise of x_0: what is remembered of the rows that arrived, else by inversion."""
        kept, target = self._noise.recall(self.rng, x_0), self._target.recall(self.rng, x_0)
        if kept is None:
            return eps  # nothing was predicted yet
        if self.remember or target is None:
            return kept
        arrived = torch.isclose(x_0, target, rtol=1e-3, atol=1e-3).flatten(1).all(1)
        if arrived.all():
            return kept
        before = [generator.get_state() for generator in self.rng]
        inverted = self._inverted(x_0, level, eps)
        for generator, state, there in zip(self.rng, before, arrived.tolist(), strict=True):
            if there:  # what others need draws nothing from this row's
                generator.set_state(state)
        return torch.where(arrived.view(-1, *(1,) * (x_0.ndim - 1)), kept, inverted)

    def _inverted(self, x_0: State, level: NoiseLevel, eps: State) -> State:
        def away(x: State, at: NoiseLevel) -> Prediction:
            return self.guided(x, at, scale=self.inversion_scale)

        x_t = invert(
            away,
            self.model,
            x_0,
            level,
            stride=self.stride,
            eta=self.eta,
            rng=self.rng,
            eps=eps if self.eta else None,
        )
        return (x_t - level.alpha * x_0) / level.sigma
