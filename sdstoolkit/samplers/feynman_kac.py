"""Feynman-Kac correctors: samples of a product of laws, with weights.

Guidance follows the score sum_i c_i s_i, but the laws p_t that this is the score of at each t are
not joined by any noising. The reverse SDE with that score draws from prod_i p_i^c_i only together
with weights,

    dx = (-f x + g^2 s) dtau + g dW,   s = sum_i c_i s_i,
    d log w = g^2 / 2 (|s|^2 - sum_i c_i |s_i|^2) dtau + const,

which are carried along, and by which the particles are resampled when few of them count.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.grids import Grid, UniformTime
from sdstoolkit.samplers._walk import Draw
from sdstoolkit.samplers.reverse_sde import ReverseSDE
from sdstoolkit.score import ScoreModel, each

__all__ = ["FeynmanKac"]

_UNIFORM = UniformTime()


class FeynmanKac(ReverseSDE):
    """Weighted particles of p(x) ~ prod_i p(x | c_i)^w_i; for guidance w = (scale, 1 - scale).

        d log w = g^2 / 2 (|s|^2 - sum_i w_i |s_i|^2) dtau

    The rows of a run are its particles: they share one law and are resampled among each other,
    systematically, where the effective number of them falls below `least` of all. Weights that
    were not used up are carried on, and used at the end. `report` holds the smallest effective
    share and the number of resamplings. Starts as `ReverseSDE`.

    Network evaluations a row and step: one a condition, in one batched call.

    Skreta et al., 2025, https://arxiv.org/abs/2503.02819.

    Args:
        model: the score model, not guided.
        conditions: c_i, each of one row; None for an unconditional model's.
        weights: w_i.
        steps, grid, start, stop: as `ReverseSDE`.
        least: the effective share below which particles are resampled, in [0, 1]; 0 for only at
            the end, which is importance sampling.

    Raises:
        ValueError: such numbers, or not one weight a condition.
    """

    def __init__(
        self,
        model: ScoreModel,
        conditions: Sequence[Condition | None],
        weights: Sequence[float],
        *,
        steps: int = 500,
        grid: Grid = _UNIFORM,
        start: float = 1.0,
        stop: float = 1e-3,
        least: float = 0.5,
    ) -> None:
        super().__init__(model, steps=steps, grid=grid, start=start, stop=stop)
        if len(conditions) != len(weights) or not weights:
            raise ValueError(f"{len(conditions)} conditions came with {len(weights)} weights.")
        if not 0 <= least <= 1:
            raise ValueError(f"least = {least} is not in [0, 1].")
        self.conditions, self.weights, self.least = tuple(conditions), tuple(weights), least

    def walk(self, x: Tensor, draw: Draw, condition: Condition | None) -> Iterator[Tensor]:
        """The particles at the grid's times after the first; `condition` has no influence."""
        log_w = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        self.report = {"least effective share": 1.0, "resamplings": 0.0}
        for k, (f, g) in enumerate(zip(self.drift, self.diffusion, strict=True)):
            t, h = self.times[k], self.times[k] - self.times[k + 1]
            with torch.no_grad():
                scores = [p.score for p in each(self.model, x, t, self.conditions)]
            s = sum(w * score for w, score in zip(self.weights, scores, strict=True))
            assert isinstance(s, Tensor)
            excess = _square(s) - sum(
                w * _square(score) for w, score in zip(self.weights, scores, strict=True)
            )
            log_w = log_w + h * g**2 / 2 * excess
            x = x - h * (f * x - g**2 * s) + h**0.5 * g * draw.normal()
            share = log_w.softmax(0)
            effective = float(1 / share.square().sum()) / len(x)
            self.report["least effective share"] = min(
                self.report["least effective share"], effective
            )
            if effective < self.least or k + 1 == len(self.drift):
                x, log_w = x[_systematic(share, float(draw.uniform()[0]))], torch.zeros_like(log_w)
                self.report["resamplings"] += 1
            yield x


def _square(s: Tensor) -> Tensor:
    return s.double().flatten(1).square().sum(1)


def _systematic(share: Tensor, u: float) -> Tensor:
    """Which particle each of n becomes: one comb of n teeth over the shares."""
    n = len(share)
    comb = (torch.arange(n, dtype=torch.float64, device=share.device) + u) / n
    return torch.searchsorted(share.cumsum(0), comb).clamp(max=n - 1)
