"""Fixed-point inversion: the noise from which DDIM under the source gives the image itself.

    x_s = Phi^-1(x_0; source),   x_0' = Phi(x_s; target)

with Phi the steps of DDIM and Phi^-1 their implicit inverse, refined at every step instead of
taken once at the wrong place. It is a `PromptSwap` with the solver that does so.
"""

from sdstoolkit.edit.prompt_swap import PromptSwap
from sdstoolkit.score import ScoreModel
from sdstoolkit.solvers import ImplicitEuler

__all__ = ["FixedPoint"]


class FixedPoint(PromptSwap):
    """`PromptSwap` along DDIM, inverted by z = y_s + h eps_hat(z, t; source).

    Network evaluations: up to `iterations` + 1 a step; a guided model's count twice.

    Pan et al. (AIDI), 2023, https://arxiv.org/abs/2309.04907.

    Args:
        model: the model to invert with, best without guidance.
        guided: the model to sample with; the same by default.
        steps: how many steps each way, at least 1.
        strength: how far to go, a time in (0, 1].
        iterations: evaluations of a step of the inversion, at least 1.

    Raises:
        ValueError: one of these is out of range.
    """

    def __init__(
        self,
        model: ScoreModel,
        guided: ScoreModel | None = None,
        *,
        steps: int = 50,
        strength: float = 1.0,
        iterations: int = 6,
    ) -> None:
        solver = ImplicitEuler(iterations=iterations)
        super().__init__(model, guided, steps=steps, strength=strength, solver=solver)
