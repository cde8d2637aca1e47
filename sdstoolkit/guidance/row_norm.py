"""Classifier-free guidance that keeps the norm of every row of the latents: Lumina-Image 2.0's.

    m = out(n) + scale (out(c) - out(n)),   out = m |out(c)| / |m|   over the last axis, the width

It is the rule of Lumina2Pipeline (Qin et al., 2025, https://arxiv.org/abs/2503.21758).
"""

from torch import Tensor

from sdstoolkit.guidance._rescaled import Rescaled

__all__ = ["RowNorm"]


class RowNorm(Rescaled):
    """A model guided away from a null condition, with the norm of each row of pixels kept.

        out = m |out(c)| / |m|,   m = out(n) + scale (out(c) - out(n))

    Args:
        model, null, scale: as `ClassifierFree`.
    """

    def rule(self, told: Tensor, null: Tensor) -> Tensor:
        """m |out(c)| / |m|."""
        mixed = null + self.scale * (told - null)
        return mixed * (told.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True))
