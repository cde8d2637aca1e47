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

import torch
from torch import Tensor, nn

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Discrete, NoiseLevel
from sdstoolkit.prediction import Parameterization
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel

PIPELINES = ("DDPMPipeline", "DDIMPipeline")


class UNet2DScore(ScoreModel):
    """A UNet2DModel and the table it was trained on; takes no condition.

        out = UNet(x_t, k),   k = t (T - 1)

    k is a float: between two entries of the table it is as smooth as the network. One network
    evaluation a row.

    Args:
        network: a diffusers UNet2DModel.
        schedule: its table.
        parameterization: what it returns.
    """

    schedule: Discrete

    def __init__(
        self, network: nn.Module, *, schedule: Discrete, parameterization: Parameterization
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self.shape = image_shape(network)

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """UNet(x_t, k), as `ScoreModel.output`."""
        if condition:
            raise ValueError(
                f"The condition has {', '.join(condition)}, expected none: the model is"
                " unconditional."
            )
        k = self.schedule.timestep(level.t).to(x_t.device, torch.float32)
        return self.network(x_t, k, return_dict=False)[0]


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a DDPMPipeline or DDIMPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's.
    """
    from diffusers import UNet2DModel

    schedule, parameterization = checkpoint.scheduler()
    config = checkpoint.config("unet")
    for key, known in (
        ("time_embedding_type", "positional"),
        ("class_embed_type", None),
        ("num_class_embeds", None),
    ):
        if config.get(key, known) != known:
            raise ValueError(
                f"The unet of {checkpoint.name!r} has {key}={config[key]!r}, expected {known!r}."
            )
    network = checkpoint.network("unet", UNet2DModel)
    try:
        score = UNet2DScore(network, schedule=schedule, parameterization=parameterization)
    except ValueError as error:
        raise ValueError(f"{checkpoint.name!r} cannot be opened: {error}") from None
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
    size = config.sample_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if not (isinstance(height, int) and isinstance(width, int)):
        raise ValueError(f"The unet has sample_size={size!r}, expected one size or two.")
    return config.in_channels, height, width
