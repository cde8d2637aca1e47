"""Latent consistency models: Stable Diffusion distilled to a few steps and for guidance.

    out = UNet(x_t, k, text, embedding(guidance - 1)) = eps

They are told the guidance scale that they answer for, 8.5 unless told otherwise, and are not
guided again. Their x_0 is that of the consistency function but for the boundary terms, which make
it x_t at t = 0 and are below 1e-4 from the fifth entry of the table on.

Reference:
    Luo et al., Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step
    Inference, 2023, https://arxiv.org/abs/2310.04378
"""

import math

import torch
from torch import Tensor

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._guided import GuidancePrior
from sdstoolkit.adapters.stable_diffusion import StableDiffusionScore, components
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.prior import Prior

PIPELINES = ("LatentConsistencyModelPipeline",)
TAKES = "a prompt"
EXAMPLES = ("SimianLuo/LCM_Dreamshaper_v7",)
GUIDANCE = 8.5


class LatentConsistencyScore(StableDiffusionScore):
    """A UNet2DConditionModel that is told a guidance scale.

        out = UNet(x_t, k, text, embedding(guidance - 1))

    The condition has "text" [n, tokens, width] and "guidance" [n]. One network evaluation a row.
    """

    takes = ("text", "guidance")

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """UNet(x_t, k, text, embedding(guidance - 1))."""
        width = self.network.config.time_cond_proj_dim
        told = embedding(condition["guidance"].float() - 1, width).to(x.dtype)
        out = self.network(x, noise, condition["text"], timestep_cond=told, return_dict=False)
        return out[0]


def embedding(value: Tensor, width: int) -> Tensor:
    """Sines and cosines of 1000 value, [n, width], at frequencies from 1 down to 1e-4."""
    half = width // 2
    exponents = torch.arange(half, device=value.device) / (half - 1)
    angles = 1000 * value[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a LatentConsistencyModelPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    if not checkpoint.config("unet").get("time_cond_proj_dim"):
        raise ValueError(
            f"The unet of {checkpoint.name!r} has no time_cond_proj_dim, expected a width: it is"
            " not distilled for guidance."
        )
    score, autoencoder, text = components(
        checkpoint, LatentConsistencyScore, allowed=("time_cond_proj_dim",)
    )
    return GuidancePrior(score, KLCodec(autoencoder), text, guidance=GUIDANCE)
