"""Unconditional latent diffusion: a UNet2DModel over the codes of a VQ autoencoder.

    out = UNet(x_t, k),   x_0 = scale code(image)

Decoding takes the nearest words of the codebook; its gradient passes through unchanged.

Reference:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2021,
    https://arxiv.org/abs/2112.10752
"""

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import latent_shape
from sdstoolkit.adapters.unet_2d import UNCONDITIONAL, UNet2DScore
from sdstoolkit.codec import KLCodec
from sdstoolkit.prior import Prior

PIPELINES = ("LDMPipeline",)
TAKES = "nothing"
EXAMPLES = ("CompVis/ldm-celebahq-256",)


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of an LDMPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import AutoencoderKL, UNet2DModel, VQModel

    trained = checkpoint.scheduler()
    checkpoint.expect("unet", UNCONDITIONAL)
    network = checkpoint.network("unet", UNet2DModel)
    autoencoder = checkpoint.network("vqvae", VQModel, AutoencoderKL)
    checkpoint.fit(
        ("unet's in_channels", network.config.in_channels,
         "vqvae's latent_channels", autoencoder.config.latent_channels),
    )  # fmt: skip
    with checkpoint.explained():
        score = UNet2DScore(network, trained, latent_shape(network, autoencoder))
    return Prior(score, KLCodec(autoencoder))
