"""Posterior distillation sampling as an edit: the delta score, and a pull to the image itself.

    x_0' <- x_0' - lr Adam(chi delta + identity (x_0' - x_0)),
    delta = eps_hat(x_t', target) - eps_hat(x_t, source),   from x_0' = x_0

The loss is `distill.PDS`, which says what chi is. Between Gaussians of equal spread the edit stops
on the way of `DDS`, after the share a / (a + identity) of it, a the mean slope of the first term.
"""

from sdstoolkit import distill
from sdstoolkit.condition import Condition
from sdstoolkit.edit._by_loss import ByLoss
from sdstoolkit.score import ScoreModel

__all__ = ["PDS"]


class PDS(ByLoss):
    """Descent on chi (eps_hat(x_t', target) - eps_hat(x_t, source)) + identity (x_0' - x_0).

    Network evaluations: 4 a step, in one batched call; 2 at `scale=1`.

    Koo, Park and Sung, 2023, https://arxiv.org/abs/2311.13831.

    Args:
        model: the model without guidance.
        null: what to guide away from; None for a model without conditions.
        scale: of the guidance; 1 is none.
        steps: how many steps of Adam, at least 1.
        lr: learning rate of Adam at the first step, above 0; it falls to 0 as a cosine.
        stride: how far apart the two times of the posterior are, in (0, 1).
        identity: weight of the pull to the image, at least 0.

    Raises:
        ValueError: `steps` or `lr` is out of range; at the first step, `stride` or `identity` is.
    """

    loss = distill.PDS

    def __init__(
        self,
        model: ScoreModel,
        null: Condition | None = None,
        *,
        scale: float = 7.5,
        steps: int = 200,
        lr: float = 0.05,
        stride: float = 0.002,
        identity: float = 0.08,
    ) -> None:
        super().__init__(model, null, scale=scale, steps=steps, lr=lr)
        self.own = {"stride": stride, "identity": identity}
