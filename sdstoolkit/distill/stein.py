"""Stein score distillation: a control variate for the noise of SDS.

By Stein's identity E[eps phi(x_t)] = sigma E[grad phi(x_t)] over eps, so that

    G = w (eps_hat - u (eps phi(x_t) - sigma grad phi(x_t)))

has the same mean for every function phi and every u. phi = 1 and u = 1 is SDS, u = 0 takes the
noise as it comes, and u* = Cov(eps_hat, b) / Var(b), b the bracket, has the least variance: it
lies below 1 where the noise is small, and there SDS's own choice harms.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sdstoolkit._typing import State
from sdstoolkit.distill._memory import Memory
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import SigmaSquared, Weight
from sdstoolkit.grids import UniformLaw
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel

__all__ = ["Stein"]

_WEIGHT, _LAW = SigmaSquared(), UniformLaw()


class Stein(Distiller):
    """Score distillation with a control variate whose strength is learnt on the way.

        G = w (eps_hat - u (eps phi - sigma grad phi)),   u <- EMA of <eps_hat, b> / <b, b>

    u is a number a row for each eighth of the times, from the row's earlier calls only, so that
    it does not know the noise it is used on.

    Network evaluations a row: 2, in one batched call; 1 at `scale=1`; and phi with its way back.

    Wang et al. (SteinDreamer), 2024, https://arxiv.org/abs/2401.00604.

    Args:
        model, prompt, negative, scale, weight, t_law, limits: as `Distiller`.
        baseline: phi, differentiable, x_t [n, *shape] -> [n]; None for 1.
        strength: u, fixed; None learns it, from 1 on.
        decay: of the moving averages, in [0, 1).

    Raises:
        ValueError: `decay` is not in [0, 1), or as `Distiller`.
    """

    card = Card(
        rows=2,
        paper="Wang et al., 2024",
        link="https://arxiv.org/abs/2401.00604",
        scale=7.5,
        law="sqrt",
        lr=0.1,
        bad_at="what SDS is bad at, but for its noise",
    )
    CELLS = 8

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
        baseline: Callable[[Tensor], Tensor] | None = None,
        strength: float | None = None,
        decay: float = 0.9,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, expected a number in [0, 1).")
        super().__init__(
            model,
            prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.baseline, self.strength, self.decay = baseline, strength, decay
        self._moments = Memory()

    def state(self) -> dict[str, Tensor]:
        """What is kept from call to call."""
        return self._moments.state("moments")

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from it."""
        self._moments.restore(state, "moments")

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """eps_hat - u (eps phi - sigma grad phi)."""
        seen = self.guided(x_t, level).eps
        variate = self.variate(x_t, level, eps)
        if self.strength is not None:
            return seen - self.strength * variate
        return seen - self._learnt(seen, variate, level) * variate

    def variate(self, x_t: State, level: NoiseLevel, eps: State) -> State:
        """The bracket, eps phi - sigma grad phi, of mean zero over eps.

        Args:
            x_t: noisy states.
            level: their noise level.
            eps: their noise.
        """
        if self.baseline is None:
            return eps
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            phi = self.baseline(x)
            (slope,) = torch.autograd.grad(phi.sum(), x)
        return phi.detach().reshape(level.sigma.shape) * eps - level.sigma * slope

    def _learnt(self, seen: Tensor, variate: Tensor, level: NoiseLevel) -> Tensor:
        """u as it was before this call, which it then learns from; shaped as sigma."""
        n = len(seen)
        kept = self._moments.recall(self.rng, seen.new_empty(n, self.CELLS, 2))
        moments = seen.new_ones(n, self.CELLS, 2) if kept is None else kept
        cell = (level.t * self.CELLS).long().clamp(max=self.CELLS - 1)
        rows = torch.arange(n, device=seen.device)
        both, own = moments[rows, cell].unbind(-1)
        now = torch.stack([(seen * variate), variate.square()], -1).flatten(1, -2).mean(1)
        changed = moments.clone()
        changed[rows, cell] = self.decay * moments[rows, cell] + (1 - self.decay) * now
        self._moments.keep(self.rng, changed)
        return torch.where(own > 0, both / own, 1.0).reshape(level.sigma.shape)
