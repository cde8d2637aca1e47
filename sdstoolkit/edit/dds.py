"""Delta denoising score as an edit: down the difference of two predictions under one noise.

    x_0' <- x_0' - lr Adam(eps_hat(x_t', target) - eps_hat(x_t, source)),   from x_0' = x_0

The loss is `distill.DDS`. Between Gaussians of equal spread the edit ends in
x_0 + scale (m_target - m_source).
"""

from sdstoolkit import distill
from sdstoolkit.edit._by_loss import ByLoss

__all__ = ["DDS"]


class DDS(ByLoss):
    """Descent on the delta denoising score, eps_hat(x_t', target) - eps_hat(x_t, source).

    Network evaluations: 4 a step, in one batched call; 2 at `scale=1`.

    Hertz, Aberman and Cohen-Or, 2023, https://arxiv.org/abs/2304.07090.

    Args:
        model: the model without guidance.
        null: what to guide away from; None for a model without conditions.
        scale: of the guidance; 1 is none.
        steps: how many steps of Adam, at least 1.
        lr: learning rate of Adam at the first step, above 0; it falls to 0 as a cosine.

    Raises:
        ValueError: one of these is out of range.
    """

    loss = distill.DDS
