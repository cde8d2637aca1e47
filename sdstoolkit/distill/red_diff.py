"""RED-diff: an inverse problem with score distillation as its regulariser.

    G = obs grad_(x_0) ||y - A(x_0)||^2 / 2 + lam w (eps_hat(x_t) - eps),   w = r

On a Gaussian prior N(m, s^2) it rests where Tikhonov does, with the precision
lam E[sigma^2 / v_t], v_t = alpha^2 s^2 + sigma^2, in place of 1 / s^2: lam calibrates it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdstoolkit._typing import State
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import NoiseRatio, Weight
from sdstoolkit.grids import LinearAnneal
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel

__all__ = ["REDDiff"]

_WEIGHT, _LAW = NoiseRatio(), LinearAnneal()


class REDDiff(Distiller):
    """Regularisation by denoising diffusion, for inverse problems.

        G = obs A'(x_0)^T (A(x_0) - y) + lam w (eps_hat - eps)

    Network evaluations a row: 1; 2 with guidance. Sums over elements, as all losses here: where
    the paper takes means, obs is divided by the number of measurements and lam by that of x_0.

    Mardani et al., 2023, https://arxiv.org/abs/2305.04391.

    Args:
        model, prompt, negative, scale, weight, t_law, limits: as `Distiller`; t should fall.
        measure: A, differentiable, x_0 [n, *shape] -> [n, ...]; with a latent model what comes
            after the decoder, too. None for no measurement.
        measured: y, [1 or n, ...].
        obs: the weight of the measurement, at least 0; 0 is SDS with weight lam w.
        lam: the weight of the prior, at least 0.

    Raises:
        ValueError: only one of measure and measured, a negative weight, or as `Distiller`.
    """

    card = Card(
        rows=1,
        paper="Mardani et al., 2023",
        link="https://arxiv.org/abs/2305.04391",
        scale=1.0,
        bad_at="uncertainty: it finds one image and not the posterior",
    )

    measured: Tensor | None

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
        measure: Callable[[Tensor], Tensor] | None = None,
        measured: Tensor | None = None,
        obs: float = 1.0,
        lam: float = 0.25,
    ) -> None:
        if (measure is None) != (measured is None):
            raise ValueError("Only one of measure and measured was given; give both or neither.")
        if not (obs >= 0 and lam >= 0):
            raise ValueError(f"obs is {obs} and lam {lam}, expected weights of at least 0.")
        super().__init__(
            model,
            prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.measure, self.obs, self.lam = measure, obs, lam
        self.register_buffer("measured", measured, persistent=False)

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """lam (eps_hat - eps)."""
        return self.lam * (self.guided(x_t, level).eps - eps)

    def besides(self, x_0: State, level: NoiseLevel) -> State | None:
        """The gradient of the misfit."""
        if self.measure is None or self.measured is None or self.obs == 0:
            return None
        with torch.enable_grad():
            x = x_0.detach().requires_grad_()
            misfit = (self.measure(x) - self.measured.to(x)).square().sum() / 2
            (slope,) = torch.autograd.grad(misfit, x)
        return self.obs * slope
