"""Identity-preserving distillation sampling as an edit: delta scores under the image's noise.

    x_0' <- x_0' - lr Adam(eps_hat(alpha x_0' + sigma eps*, target) - eps_hat(x_t*, source))

eps* is the noise under which the network's answer to x_t* = alpha x_0 + sigma eps* is the image
itself, found by a few iterations at every step; the loss is `distill.IDS`.
"""

from sdstoolkit import distill
from sdstoolkit.condition import Condition
from sdstoolkit.edit._by_loss import ByLoss
from sdstoolkit.score import ScoreModel

__all__ = ["IDS"]


class IDS(ByLoss):
    """Descent on the delta denoising score under eps*, the noise that belongs to the image.

    Network evaluations: 4 a step, and 2 with a backward pass for each iteration; half of it
    at `scale=1`.

    Kim et al., 2025, https://arxiv.org/abs/2502.19930.

    Args:
        model: the model without guidance.
        null: what to guide away from; None for a model without conditions.
        scale: of the guidance; 1 is none.
        steps: how many steps of Adam, at least 1.
        lr: learning rate of Adam at the first step, above 0; it falls to 0 as a cosine.
        iterations: how many iterations for the image's noise, at least 0; 0 is `DDS`.

    Raises:
        ValueError: `steps` or `lr` is out of range; at the first step, `iterations` is.
    """

    loss = distill.IDS

    def __init__(
        self,
        model: ScoreModel,
        null: Condition | None = None,
        *,
        scale: float = 7.5,
        steps: int = 200,
        lr: float = 0.05,
        iterations: int = 3,
    ) -> None:
        super().__init__(model, null, scale=scale, steps=steps, lr=lr)
        self.own = {"iterations": iterations}
