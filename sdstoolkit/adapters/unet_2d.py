"""Unconditional pixel models: a UNet2DModel saved by a DDPMPipeline or a DDIMPipeline.

    out = UNet(x_t, k),  k = t (T - 1),  x_t = alpha_k x_0 + sigma_k eps,  x_0 = 2 image - 1

What `out` is (epsilon, sample or v) and the table of alphas are read from the scheduler's config.

References:
    Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, 2020,
    https://arxiv.org/abs/2006.11239
    Song, Meng and Ermon, Denoising Diffusion Implicit Models, 2020,
    https://arxiv.org/abs/2010.02502
"""

from typing import Any

from torch import Tensor, nn

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import NetworkScore, sample_size
from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.prior import Prior

PIPELINES = ("DDPMPipeline", "DDIMPipeline")
TAKES = "nothing"
EXAMPLES = ("google/ddpm-celebahq-256",)
UNCONDITIONAL = {
    "time_embedding_type": "positional",
    "class_embed_type": None,
    "num_class_embeds": None,
}


class UNet2DScore(NetworkScore):
    """A UNet2DModel and the noise it was trained on; takes no condition.

        out = UNet(x_t, c_noise),   c_noise = k = t (T - 1) for a table

    One network evaluation a row.
    """

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """UNet(x_t, c_noise)."""
        return self.network(x, noise, return_dict=False)[0]


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a DDPMPipeline or DDIMPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's.
    """
    from diffusers import UNet2DModel

    trained = checkpoint.scheduler()
    checkpoint.expect("unet", UNCONDITIONAL)
    network = checkpoint.network("unet", UNet2DModel)
    with checkpoint.explained():
        score = UNet2DScore(network, trained, image_shape(network))
    return Prior(score, Codec(channels=score.shape[0]))


def image_shape(network: nn.Module) -> tuple[int, int, int]:
    """(c, h, w) of one sample, from the config of a diffusers network.

    Raises:
        ValueError: the network returns other channels than it takes, or its config has no size.
    """
    config: Any = network.config
    if config.out_channels != config.in_channels:
        raise ValueError(
            f"The unet takes {config.in_channels} channels and returns {config.out_channels},"
            " expected as many (no learned variance, no inpainting)."
        )
    return (config.in_channels, *sample_size(network))
