"""ControlNet on Stable Diffusion: a copy of the encoder that reads a hint and corrects the UNet.

    out = UNet(x_t, k, text) + strength ControlNet(x_t, k, text, hint)   at every level of the UNet

The hint is an image in [0, 1] of the size of the image: edges, depth, a pose.

Reference:
    Zhang, Rao and Agrawala, Adding Conditional Control to Text-to-Image Diffusion Models, 2023,
    https://arxiv.org/abs/2302.05543
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters.stable_diffusion import StableDiffusionScore, components
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition, merge
from sdstoolkit.prior import Prior

PIPELINES = ("StableDiffusionControlNetPipeline",)
TAKES = "a prompt and a hint"
EXAMPLES: tuple[str, ...] = ()


class ControlNetScore(StableDiffusionScore):
    """A UNet2DConditionModel that a ControlNetModel corrects.

        out = UNet(x_t, k, text, strength ControlNet(x_t, k, text, hint))

    The condition has "text" [n, tokens, width], "hint" [n, 3, H, W] and "strength" [n, 1, 1, 1].
    One evaluation of each network a row.
    """

    takes = ("text", "hint", "strength")
    control: nn.Module

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """UNet(x_t, k, text, strength ControlNet(x_t, k, text, hint))."""
        down, middle = self.control(
            x,
            noise,
            condition["text"],
            controlnet_cond=condition["hint"],
            conditioning_scale=condition["strength"],
            return_dict=False,
        )
        out = self.network(
            x,
            noise,
            condition["text"],
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )
        return out[0]


class ControlNetPrior(Prior):
    """A prior that follows a hint."""

    takes, accepts = TAKES, ("hint", "strength")

    def condition(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        label: int | Sequence[int] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        hint: Tensor | None = None,
        strength: float = 1.0,
    ) -> Condition:
        """What the network is told: a prompt, and the hint [n, 3, h, w] in [0, 1].

        The hint is of the size of the image; at a `strength` of 0 it is as if there were none.

        Raises:
            ValueError: as `Prior.condition`; no hint, or one of a size that no image has.
        """
        told = super().condition(prompt, label=label, image=image, mask=mask)
        if hint is None:
            raise ValueError(
                f"{type(self.score).__name__} takes {self.takes}: give"
                " prior.condition(prompt, hint=...)."
            )
        if hint.ndim != 4 or hint.shape[1] != self.codec.image_channels:
            raise ValueError(
                f"hint has shape {list(hint.shape)}, expected"
                f" [n, {self.codec.image_channels}, h, w]."
            )
        self.codec.shape(len(hint), *hint.shape[-2:])
        scale = torch.full((1, 1, 1, 1), float(strength), device=self.device)
        return merge(
            told, Condition({"hint": hint.to(self.device)}), Condition({"strength": scale})
        )


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a StableDiffusionControlNetPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import ControlNetModel

    score, autoencoder, text = components(checkpoint, ControlNetScore)
    control = checkpoint.network("controlnet", ControlNetModel)
    checkpoint.fit(
        ("controlnet's cross_attention_dim", control.config.cross_attention_dim,
         "unet's", score.network.config.cross_attention_dim),
        ("controlnet's block_out_channels", list(control.config.block_out_channels),
         "unet's", list(score.network.config.block_out_channels)),
    )  # fmt: skip
    score.control = control
    return ControlNetPrior(score, KLCodec(autoencoder), text)
