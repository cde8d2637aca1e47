"""InstructPix2Pix: a UNet of eight channels that sees an image and is told how to change it.

    out = UNet((x_t, E(image) / scale), k, text)

The image's latents are not multiplied by the scaling factor. Its guidance has two scales: see
`sdstoolkit.guidance.InstructPix2Pix`.

Reference:
    Brooks, Holynski and Efros, InstructPix2Pix: Learning to Follow Image Editing Instructions,
    2022, https://arxiv.org/abs/2211.09800
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters.stable_diffusion import StableDiffusionScore, components
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition, merge
from sdstoolkit.prior import Prior

PIPELINES = ("StableDiffusionInstructPix2PixPipeline",)
TAKES = "a prompt and an image"
EXAMPLES = ("timbrooks/instruct-pix2pix",)


class InstructPix2PixScore(StableDiffusionScore):
    """A UNet2DConditionModel that sees the latents of an image.

        out = UNet((x_t, image), k, text)

    The condition has "text" [n, tokens, width] and "image" [n, c, h, w], unscaled latents. One
    network evaluation a row.
    """

    takes = ("text", "image")

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """UNet((x_t, image), k, text)."""
        return super().call(torch.cat([x, condition["image"]], dim=1), noise, condition)


class InstructPix2PixPrior(Prior):
    """A prior over changed images.

    Args:
        score, codec, text: as `Prior`.
        scale: the autoencoder's scaling factor, which the latents told are without.
    """

    takes, accepts = TAKES, ("image",)

    def __init__(
        self, score: InstructPix2PixScore, codec: KLCodec, text: torch.nn.Module, *, scale: float
    ) -> None:
        super().__init__(score, codec, text)
        self.scale = scale

    def condition(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        label: int | Sequence[int] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        hint: Tensor | None = None,
    ) -> Condition:
        """What the network is told: an instruction, and the image to change.

        Raises:
            ValueError: as `Prior.condition`, or no image.
        """
        told = super().condition(prompt, label=label, mask=mask, hint=hint)
        if image is None:
            raise ValueError(
                f"{type(self.score).__name__} takes {self.takes}: give"
                " prior.condition(prompt, image=...)."
            )
        with torch.no_grad():
            latents = self.codec.encode(image.to(self.device)) / self.scale
        return merge(told, Condition({"image": latents}))


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a StableDiffusionInstructPix2PixPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    channels = checkpoint.config("vae").get("latent_channels", 4)
    score, autoencoder, text = components(checkpoint, InstructPix2PixScore, extra=channels)
    scale = float(autoencoder.config.scaling_factor)
    return InstructPix2PixPrior(score, KLCodec(autoencoder), text, scale=scale)
