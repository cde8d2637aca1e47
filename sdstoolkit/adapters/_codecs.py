"""Codecs of autoencoders that are not `KLCodec`'s."""

from typing import Any

from torch import Tensor, nn

from sdstoolkit.codec import Codec, KLCodec, per_channel


class FrameCodec(KLCodec):
    """One image as the only frame of a video autoencoder, x_0 = (mean(2 image - 1) - mean) / std.

    Args:
        autoencoder: AutoencoderKLWan or AutoencoderKLQwenImage; what matters in its configuration
            is dim_mult, z_dim, latents_mean and latents_std.
        patch: see `Codec`.
    """

    def __init__(self, autoencoder: nn.Module, *, patch: int = 1) -> None:
        config: Any = autoencoder.config
        Codec.__init__(self, channels=3)
        self.channels, self.patch = config.z_dim, patch
        self.multiple = 2 ** (len(config.dim_mult) - 1)
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self._shift = per_channel(config.latents_mean, default=0.0)
        self._scale = 1 / per_channel(config.latents_std, default=1.0)

    def _code(self, picture: Tensor) -> Tensor:
        return self.autoencoder.encode(picture[:, :, None]).latent_dist.mode()[:, :, 0]

    def _picture(self, code: Tensor) -> Tensor:
        return self.autoencoder.decode(code[:, :, None], return_dict=False)[0][:, :, 0]
