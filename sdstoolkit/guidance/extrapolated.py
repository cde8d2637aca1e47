"""Classifier-free guidance counted from the conditional model: Z-Image's.

    out = out(c) + scale (out(c) - out(n)),   |out| <= most |out(c)|

The first line is `ClassifierFree` at scale + 1; the bound is on the norm of a whole sample. It is
the rule of ZImagePipeline (Z-Image Team, 2025, https://github.com/Tongyi-MAI/Z-Image).
"""

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._rescaled import Rescaled
from sdstoolkit.score import ScoreModel

__all__ = ["Extrapolated"]


class Extrapolated(Rescaled):
    """A model guided away from a null condition, 0 being the conditional model.

        out = out(c) + scale (out(c) - out(n))

    Args:
        model, null: as `ClassifierFree`.
        scale: 0 is no guidance.
        most: the largest norm of a sample, in norms of out(c), above 0; None for no bound.

    Raises:
        ValueError: as `ClassifierFree`, or `most` is not above 0.
    """

    def __init__(
        self, model: ScoreModel, null: Condition, *, scale: float, most: float | None = None
    ) -> None:
        super().__init__(model, null, scale=scale)
        if most is not None and not most > 0:
            raise ValueError(f"most is {most}, expected a number above 0, or None for no bound.")
        self.most = most

    def rule(self, told: Tensor, null: Tensor) -> Tensor:
        """out(c) + scale (out(c) - out(n)), bounded."""
        mixed = told + self.scale * (told - null)
        if self.most is None:
            return mixed
        bound, norm = (v.flatten(1).norm(dim=1) for v in (self.most * told, mixed))
        ratio = torch.where(norm > bound, bound / norm, 1.0)
        return mixed * ratio.reshape(-1, *(1,) * (mixed.ndim - 1))
