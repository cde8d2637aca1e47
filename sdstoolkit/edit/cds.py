"""Contrastive denoising score as an edit: the delta score, and a term that keeps every place.

    x_0' <- x_0' - lr Adam(eps_hat(x_t', target) - eps_hat(x_t, source) + contrast grad NCE)

NCE compares what the network's self-attention says of the two, patch by patch; the loss is
`distill.CDS`.
"""

from sdstoolkit import distill
from sdstoolkit.condition import Condition
from sdstoolkit.edit._by_loss import ByLoss
from sdstoolkit.score import ScoreModel

__all__ = ["CDS"]


class CDS(ByLoss):
    """Descent on the delta denoising score and a contrast of features, which keeps outlines.

    Network evaluations: 6 a step, 1 of them with a backward pass; 4 at `scale=1`.

    Nam, Kwon, Park and Ye, 2023, https://arxiv.org/abs/2311.18608.

    Args:
        model: the model without guidance, with self-attention.
        null: what to guide away from; None for a model without conditions.
        scale: of the guidance; 1 is none.
        steps: how many steps of Adam, at least 1.
        lr: learning rate of Adam at the first step, above 0; it falls to 0 as a cosine.
        contrast: weight of the term that keeps the structure, at least 0; 0 is `DDS`.
        temperature: of its softmax over patches, above 0.

    Raises:
        ValueError: `steps` or `lr` is out of range; at the first step, `contrast` or
            `temperature` is, or the network has no self-attention.
    """

    loss = distill.CDS

    def __init__(
        self,
        model: ScoreModel,
        null: Condition | None = None,
        *,
        scale: float = 7.5,
        steps: int = 200,
        lr: float = 0.05,
        contrast: float = 3.0,
        temperature: float = 0.07,
    ) -> None:
        super().__init__(model, null, scale=scale, steps=steps, lr=lr)
        self.own = {"contrast": contrast, "temperature": temperature}
