"""InstructPix2Pix's guidance: one scale for the instruction, one for the image.

With c the instruction and the image, i the image alone and n neither,

    eps_hat = eps_hat(n) + scale (eps_hat(c) - eps_hat(i)) + image_scale (eps_hat(i) - eps_hat(n)).

The weights scale, image_scale - scale and 1 - image_scale sum to one.

Brooks, Holynski and Efros, 2022, https://arxiv.org/abs/2211.09800.
"""

import math

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["InstructPix2Pix"]


class InstructPix2Pix(ScoreModel):
    """A model guided towards an instruction and towards an image.

        eps_hat = eps_hat(n) + scale (eps_hat(c) - eps_hat(i))
                + image_scale (eps_hat(i) - eps_hat(n))

    Network evaluations a row: 3, in one batched call; fewer where a weight is zero.

    Args:
        model: the model to guide.
        null: the image without an instruction, `prior.condition("", image=...)`; what has neither
            is the same with zeros for "image".
        scale: of the instruction; 1 with image_scale = 1 is the conditional model.
        image_scale: of the image.

    Raises:
        ValueError: a scale is not finite, or `null` has no "image".
    """

    def __init__(
        self, model: ScoreModel, null: Condition, *, scale: float, image_scale: float = 1.5
    ) -> None:
        super().__init__()
        if not (math.isfinite(scale) and math.isfinite(image_scale)):
            raise ValueError(
                f"scale is {scale} and image_scale is {image_scale}, expected finite numbers."
            )
        if "image" not in null:
            raise ValueError("The null condition has no image, expected one of InstructPix2Pix.")
        self.model = model
        self.schedule, self.parameterization = model.schedule, model.parameterization
        self.shape = model.shape
        self.null = null
        self.scale, self.image_scale = float(scale), float(image_scale)

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The guided output of the network."""
        neither = Condition({**self.null, "image": torch.zeros_like(self.null["image"])})
        weights = (self.scale, self.image_scale - self.scale, 1 - self.image_scale)
        return self.model.mix(x_t, level, (condition, self.null, neither), weights)

    def describe(self) -> dict[str, object]:
        """The model's description, and a line for the guidance."""
        line = {
            "name": type(self).__name__,
            "scale": self.scale,
            "image_scale": self.image_scale,
        }
        return self.model.describe() | {"guidance": line}

    @property
    def dtype(self) -> torch.dtype | None:
        """None: the state reaches the model that is guided uncast."""
        return None
