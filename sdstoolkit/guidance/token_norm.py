"""Classifier-free guidance that keeps the norm of every token: Qwen-Image's.

    m = out(n) + scale (out(c) - out(n)),   out = m |out(c)| / |m|   over each c x 2 x 2 token

It is the rule of QwenImagePipeline (Wu et al., 2025, https://arxiv.org/abs/2508.02324).
"""

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from sdstoolkit.guidance._rescaled import Rescaled

__all__ = ["TokenNorm"]

PATCH = 2


class TokenNorm(Rescaled):
    """A model guided away from a null condition, with the norm of each 2 x 2 patch kept.

        out = m |out(c)| / |m|,   m = out(n) + scale (out(c) - out(n))

    Args:
        model, null, scale: as `ClassifierFree`; a state's height and width are even.
    """

    def rule(self, told: Tensor, null: Tensor) -> Tensor:
        """m |out(c)| / |m|."""
        mixed = null + self.scale * (told - null)
        ratio = (_energy(told) / _energy(mixed)).sqrt()
        return mixed * interpolate(ratio, scale_factor=PATCH)


def _energy(x: Tensor) -> Tensor:
    """Sum of squares over the channels, mean over a patch, [n, 1, h / 2, w / 2]."""
    return avg_pool2d(x.square().sum(dim=1, keepdim=True), PATCH)
