"""Stable Diffusion for inpainting: a UNet of nine channels that sees a mask and what is around it.

    out = UNet((x_t, mask, E(shown)), k, text),   shown = image outside of the mask, grey inside

The mask counts where it is 1/2 or more and is taken to the latents' size by its nearest pixel; E
is the mean of the autoencoder's posterior, where the pipeline draws from it.

Reference:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2021,
    https://arxiv.org/abs/2112.10752
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters.stable_diffusion import StableDiffusionScore, components
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition, merge
from sdstoolkit.prior import Prior

PIPELINES = ("StableDiffusionInpaintPipeline",)
TAKES = "a prompt, an image and a mask"
EXAMPLES = ("stable-diffusion-v1-5/stable-diffusion-inpainting",)


class StableDiffusionInpaintScore(StableDiffusionScore):
    """A UNet2DConditionModel that sees a mask and the latents around it.

        out = UNet((x_t, mask, shown), k, text)

    The condition has "text" [n, tokens, width], "mask" [n, 1, h, w] and "shown" [n, c, h, w]. One
    network evaluation a row.
    """

    takes = ("text", "mask", "shown")

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """UNet((x_t, mask, shown), k, text)."""
        x = torch.cat([x, condition["mask"], condition["shown"]], dim=1)
        return super().call(x, noise, condition)


class InpaintPrior(Prior):
    """A prior over what is under a mask."""

    takes, accepts = TAKES, ("image", "mask")

    def condition(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        label: int | Sequence[int] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        hint: Tensor | None = None,
    ) -> Condition:
        """What the network is told: a prompt, and the image with its mask.

        Raises:
            ValueError: as `Prior.condition`; no image or no mask, or of different sizes.
        """
        told = super().condition(prompt, label=label, hint=hint)
        if image is None or mask is None:
            raise ValueError(
                f"{type(self.score).__name__} takes {self.takes}: give"
                " prior.condition(prompt, image=..., mask=...)."
            )
        if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[-2:] != image.shape[-2:]:
            raise ValueError(
                f"mask has shape {list(mask.shape)}, expected [n, 1, h, w] with the height and"
                f" width of the image {list(image.shape)}."
            )
        image, mask = image.to(self.device), mask.to(self.device)
        hole = mask >= 0.5
        with torch.no_grad():
            shown = self.codec.encode(torch.where(hole, 0.5, image))
        small = interpolate(hole.to(shown.dtype), size=shown.shape[-2:])
        return merge(told, Condition({"mask": small}), Condition({"shown": shown}))


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a StableDiffusionInpaintPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    channels = checkpoint.config("vae").get("latent_channels", 4)
    score, autoencoder, text = components(
        checkpoint, StableDiffusionInpaintScore, extra=channels + 1
    )
    return InpaintPrior(score, KLCodec(autoencoder), text)
