"""Repulsive score distillation: particles that keep apart, so that they find several images.

    G_i = w (eps_hat(x_t^i) - eps_i - gamma sigma R_i)
    R_i = J_i^T sum_(j != i) 2 k_ij (f_i - f_j) / h_i / sum_j k_ij,
    k_ij = exp(-|f_i - f_j|^2 / h_i)

with features f of x_0 and their Jacobian J. The width is h_i = median_(j != i) |f_i - f_j|^2 /
log(N - 1), which needs three particles: at two it is infinite and nothing is repelled.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdstoolkit._typing import Points, State
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import NoiseRatio, Weight
from sdstoolkit.grids import UniformLaw
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel

__all__ = ["Repulsive", "repulsion"]

_WEIGHT, _LAW = NoiseRatio(), UniformLaw()


class Repulsive(Distiller):
    """Repulsive score distillation; the rows of a call are its particles.

        G_i = w (eps_hat(x_t^i) - eps_i - gamma sigma R_i),   w = r

    Network evaluations a row: 2, in one batched call; 1 at `scale=1`; and the features with their
    way back.

    Zilberstein, Mardani and Segarra, 2024, https://arxiv.org/abs/2406.16683.

    Args:
        model, prompt, negative, scale, weight, t_law, limits: as `Distiller`.
        gamma: strength of the repulsion; 0 is SDS.
        features: f, differentiable, x_0 [n, *shape] -> [n, d]; None for x_0 itself.

    Raises:
        ValueError: `gamma` is not finite, fewer than three rows in a call, or as `Distiller`.
    """

    card = Card(
        rows=2,
        paper="Zilberstein et al., 2024",
        link="https://arxiv.org/abs/2406.16683",
        scale=7.5,
        bad_at="fewer than three images; features that do not tell images apart",
    )
    couples = True

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
        gamma: float = 10.0,
        features: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not math.isfinite(gamma):
            raise ValueError(f"gamma is {gamma}, expected a finite strength of the repulsion.")
        super().__init__(
            model,
            prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.gamma, self.features = gamma, features

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """eps_hat - eps - gamma sigma R."""
        if self.gamma and len(x_0) < 3:
            raise ValueError(
                f"Repulsion among {len(x_0)} images has no width; optimise 3 or more at once."
            )
        residual = self.guided(x_t, level).eps - eps
        if self.gamma == 0:
            return residual
        if self.features is None:
            push = repulsion(x_0.flatten(1)).reshape(x_0.shape)
        else:
            with torch.enable_grad():
                x = x_0.detach().requires_grad_()
                f = self.features(x)
                (push,) = torch.autograd.grad(f, x, repulsion(f.detach()))
        return residual - self.gamma * level.sigma * push


def repulsion(f: Points) -> Points:
    """Where each of N points is pushed by the others, [N, d].

        sum_(j != i) 2 k_ij (f_i - f_j) / h_i / sum_j k_ij

    Points that all coincide are not pushed.

    Args:
        f: the points, [N, d], N at least 3.
    """
    n = len(f)
    away = f[:, None] - f[None]
    squares = away.square().sum(-1)
    others = squares[~torch.eye(n, dtype=torch.bool, device=f.device)].reshape(n, n - 1)
    h = others.sqrt().median(1).values.square()[:, None] / math.log(n - 1)
    h = torch.where(h > 0, h, 1.0)
    k = (-squares / h).exp()
    share = 2 * k / h / k.sum(1, keepdim=True)
    return (share[..., None] * away).sum(1)
