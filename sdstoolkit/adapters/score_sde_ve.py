"""The variance-exploding score SDE: NCSN++ networks that return the score itself.

    out = UNet(x_t, sigma) = grad log p_t(x_t),   x_t = x_0 + sigma eps,   x_0 = image

sigma is geometric between the config's two. The data are images in [0, 1] as they are.

Reference:
    Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, 2021,
    https://arxiv.org/abs/2011.13456
"""

from torch import Tensor

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters.unet_2d import UNCONDITIONAL, UNet2DScore, image_shape
from sdstoolkit.codec import Codec
from sdstoolkit.noise import VE
from sdstoolkit.prior import Prior

PIPELINES = ("ScoreSdeVePipeline",)
TAKES = "nothing"
EXAMPLES = ("google/ncsnpp-ffhq-1024",)


class UnitCodec(Codec):
    """x_0 = image: the codec of models whose data are in [0, 1]."""

    def _encode(self, image: Tensor) -> Tensor:
        return image

    def _decode(self, x_0: Tensor) -> Tensor:
        return x_0


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a ScoreSdeVePipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's.
    """
    from diffusers import UNet2DModel

    trained = checkpoint.scheduler(VE)
    checkpoint.expect("unet", UNCONDITIONAL | {"time_embedding_type": "fourier"})
    network = checkpoint.network("unet", UNet2DModel)
    with checkpoint.explained():
        score = UNet2DScore(network, trained, image_shape(network))
    return Prior(score, UnitCodec(channels=score.shape[0]))
