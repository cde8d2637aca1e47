"""Images and the space a network works in.

    x_0 = encode(image),   image = decode(x_0),   images in [0, 1], [n, c, h, w]

A pixel model has x_0 = 2 image - 1. A latent one has (Rombach et al., 2022,
https://arxiv.org/abs/2112.10752)

    x_0 = (mean(image) - shift) scale,

where the mean is that of the autoencoder's posterior: nothing is drawn. Both maps are
differentiable. A codec never resizes and never clips.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdstoolkit._dtype import dtype_of
from sdstoolkit._typing import Image, State


class Codec(nn.Module):
    """The codec of pixel models, x_0 = 2 image - 1.

    Attributes:
        multiple: the ratio of an image's height and width to x_0's.
        patch: x_0's height and width must be multiples of it, and so an image's multiples of
            `multiple` times `patch`.
        channels: of x_0.
        image_channels: of an image.

    Args:
        channels: of an image and of x_0; 3, or 1 for grey ones.
    """

    patch: int = 1

    def __init__(self, *, channels: int = 3) -> None:
        super().__init__()
        self.multiple = 1
        self.channels = self.image_channels = channels

    def encode(self, image: Tensor) -> State:
        """x_0 of an image.

        Args:
            image: [n, image_channels, h, w] in [0, 1], of a size that ``shape`` takes.

        Returns:
            x_0, of shape ``shape(n, h, w)``.

        Raises:
            ValueError: wrong channels, or a size that is not a multiple.
        """
        self._check("image", image, self.image_channels)
        self.shape(len(image), *image.shape[-2:])
        return self._encode(image)

    def decode(self, x_0: Tensor) -> Image:
        """The image of x_0, nominally in [0, 1]; not clipped, writing it to a file is.

        Args:
            x_0: [n, channels, h / multiple, w / multiple].

        Returns:
            The image, [n, image_channels, h, w].

        Raises:
            ValueError: wrong channels.
        """
        self._check("x_0", x_0, self.channels)
        return self._decode(x_0)

    def shape(self, n: int, h: int, w: int) -> tuple[int, int, int, int]:
        """The shape of x_0 for n images of h x w pixels.

        Raises:
            ValueError: h or w is not a positive multiple of `multiple` times `patch`.
        """
        m = self.multiple * self.patch
        if h % m or w % m or h < 1 or w < 1:
            raise ValueError(
                f"An image of {h} x {w} pixels does not fit; height and width must be multiples "
                f"of {m}, resize or crop it first."
            )
        return n, self.channels, h // self.multiple, w // self.multiple

    def _encode(self, image: Tensor) -> Tensor:
        return 2 * image - 1

    def _decode(self, x_0: Tensor) -> Tensor:
        return (x_0 + 1) / 2

    @staticmethod
    def _check(name: str, x: Tensor, channels: int) -> None:
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(f"{name} has shape {list(x.shape)}; expected [n, {channels}, h, w].")


class KLCodec(Codec):
    """The codec of latent models, x_0 = (mean(2 image - 1) - shift) scale.

    Its autoencoder is diffusers' AutoencoderKL, or one that has no posterior and whose code is
    taken as it is: AutoencoderTiny, AutoencoderDC, VQModel (which quantises on decoding). Where
    the configuration has a mean and a standard deviation of the latents, scale / std and mean take
    the places of scale and shift. It is frozen here and runs in its own dtype; results have the
    input's, at least float32.

    Args:
        autoencoder: the network; what matters in its configuration is block_out_channels,
            latent_channels, in_channels, scaling_factor, shift_factor, latents_mean, latents_std.
        patch: see `Codec`.
    """

    autoencoder: Any  # of diffusers, which is not imported to name a type

    def __init__(self, autoencoder: nn.Module, *, patch: int = 1) -> None:
        config: Any = autoencoder.config
        super().__init__(channels=config.latent_channels)
        self.patch = patch
        blocks = getattr(config, "block_out_channels", None) or config.encoder_block_out_channels
        self.multiple = 2 ** (len(blocks) - 1)
        self.image_channels = config.in_channels
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        std = per_channel(getattr(config, "latents_std", None), default=1.0)
        shift = getattr(config, "latents_mean", None) or getattr(config, "shift_factor", None)
        # Plain tensors, not buffers: casting the module must not round them.
        self._shift = per_channel(shift, default=0.0)
        self._scale = config.scaling_factor / std

    def _encode(self, image: Tensor) -> Tensor:
        code = self._code((2 * image - 1).to(dtype_of(self.autoencoder)))
        shift, scale = self._factors(image)
        return (code.to(shift.dtype) - shift) * scale

    def _decode(self, x_0: Tensor) -> Tensor:
        shift, scale = self._factors(x_0)
        code = (x_0 / scale + shift).to(dtype_of(self.autoencoder))
        return (self._picture(code).to(shift.dtype) + 1) / 2

    def _code(self, picture: Tensor) -> Tensor:
        """The autoencoder's code of a picture in [-1, 1]."""
        code = self.autoencoder.encode(picture)
        if hasattr(code, "latent_dist"):
            return code.latent_dist.mean
        return code.latents if hasattr(code, "latents") else code.latent

    def _picture(self, code: Tensor) -> Tensor:
        """The autoencoder's picture of a code, in [-1, 1]."""
        return self.autoencoder.decode(code).sample

    def _factors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        dtype = like.dtype if like.dtype == torch.float64 else torch.float32
        shift, scale = (
            v.to(like.device, dtype, non_blocking=True) for v in (self._shift, self._scale)
        )
        return shift, scale


def per_channel(value: float | Sequence[float] | None, *, default: float) -> Tensor:
    """A number, or a number a channel, to be combined with [n, c, h, w]."""
    return torch.tensor(default if value is None else value, dtype=torch.float64).reshape(-1, 1, 1)
