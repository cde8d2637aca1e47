"""A picture by its spectrum, in colours that natural images do not correlate.

    image = sigmoid(C^T irfft2(theta / max(f, f_0)^decay)),   f_0 = 1 / max(h, w)

theta has unit scale at every frequency, so that a step of Adam changes each by f^-decay, about the
amplitude that it has in natural images. C rotates three uncorrelated channels into red, green and
blue: a square root of the covariance of the colours of natural images (Olah, Mordvintsev and
Schubert, 2017, https://doi.org/10.23915/distill.00007).
"""

from collections.abc import Sequence

import torch
from torch import nn

from sdstoolkit._typing import Image
from sdstoolkit.canvas.base import Canvas, Size, check_spread
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal

__all__ = ["Fourier"]

COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.0, -0.05), (0.27, -0.09, 0.03))


class Fourier(Canvas):
    """The real and imaginary parts of a spectrum.

        image = sigmoid(gain C^T irfft2(theta / max(f, f_0)^decay))

    A step costs one pass through the codec's encoder and back beside the loss.

    Args:
        prior: whose codec and size are used.
        n: number of images, at least 1.
        seed: an int, for seed, ..., seed + n - 1, or n distinct seeds.
        size: height and width in pixels, or one number for both; None is the prior's.
        init_std: standard deviation of theta to start from, at least 0.
        decay: how much less a higher frequency moves; 0 is all alike, 1 as much as it has in
            natural images, and more keeps out what an encoder lets through as noise.

    Raises:
        ValueError: not n distinct seeds, a size that the codec does not take, a negative
            `init_std` or `decay`.
    """

    lr = 0.02

    def __init__(
        self,
        prior: Prior,
        *,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        size: Size = None,
        init_std: float = 0.01,
        decay: float = 1.5,
    ) -> None:
        super().__init__(prior, n=n, seed=seed, size=size)
        check_spread(init_std)
        if not decay >= 0:
            raise ValueError(f"decay is {decay}, expected a number of at least 0.")
        h, w = self.size
        rng = generators(self.seeds, "canvas")
        theta = normal(rng, (self.channels, h, w // 2 + 1, 2), device=prior.device)
        self.theta = nn.Parameter(init_std * theta)
        fy, fx = torch.fft.fftfreq(h), torch.fft.rfftfreq(w)
        f = torch.hypot(fy[:, None], fx[None]).clamp(min=1 / max(h, w))
        gain = 0.25 * f**-decay
        self.register_buffer("_gain", gain[..., None].to(prior.device), persistent=False)
        matrix = torch.tensor(COLOURS if self.channels == 3 else ((1.0,),))
        matrix = matrix / matrix.norm(dim=0).max()
        self.register_buffer("_colours", matrix.to(prior.device), persistent=False)

    def image(self) -> Image:
        """The images, [n, channels, h, w], in [0, 1]."""
        spectrum = torch.view_as_complex(self.theta * self.get_buffer("_gain"))
        u = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        return torch.sigmoid(torch.einsum("ij,njhw->nihw", self.get_buffer("_colours"), u))
