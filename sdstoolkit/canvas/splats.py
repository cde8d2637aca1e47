"""A picture as a sum of coloured Gaussians.

    image(p) = sum_g c_g exp(-|L_g^-1 (p - m_g)|^2 / 2),   m = tanh(theta),   L lower triangular

with p in [-1, 1]^2. Nothing is sorted and nothing hides another: colours add, and may be negative.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdstoolkit._typing import Image
from sdstoolkit.canvas.base import Canvas, Size
from sdstoolkit.canvas.siren import coordinates
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal, uniform

__all__ = ["Splats"]


class Splats(Canvas):
    """Gaussians with a place, a shape and a colour each, added up.

        image = sigmoid(sum_g c_g exp(-|L_g^-1 (p - m_g)|^2 / 2))

    A step costs `count` h w exponentials and one pass through the codec's encoder and back beside
    the loss. The sigmoid keeps the sum in [0, 1].

    Zhang et al. (GaussianImage), 2024, https://arxiv.org/abs/2403.08551.

    Args:
        prior: whose codec and size are used.
        n: number of images, at least 1.
        seed: an int, for seed, ..., seed + n - 1, or n distinct seeds.
        size: height and width in pixels, or one number for both; None is the prior's.
        count: Gaussians in an image, at least 1.
        radius: their deviation at the start, in units of half the image, above 0.

    Raises:
        ValueError: not n distinct seeds, a size that the codec does not take, or such numbers.
    """

    lr = 0.02

    def __init__(
        self,
        prior: Prior,
        *,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        size: Size = None,
        count: int = 128,
        radius: float = 0.15,
    ) -> None:
        super().__init__(prior, n=n, seed=seed, size=size)
        if count < 1 or not 0 < radius < float("inf"):
            raise ValueError(
                f"count is {count} and radius {radius}, expected at least 1 and above 0."
            )
        rng, device = generators(self.seeds, "canvas"), prior.device
        place = (1.9 * uniform(rng, (count, 2)) - 0.95).float().to(device)
        self.place = nn.Parameter(torch.atanh(place))
        # the inverse of L: its diagonal's logarithms, and the rest
        cholesky = torch.zeros(n, count, 3, device=device)
        cholesky[..., :2] = -torch.tensor(radius).log()
        self.cholesky = nn.Parameter(cholesky)
        self.colour = nn.Parameter(0.1 * normal(rng, (count, self.channels), device=device))
        self.background = nn.Parameter(torch.zeros(n, self.channels, device=device))

    def image(self) -> Image:
        """The images, [n, channels, h, w], in [0, 1]."""
        h, w = self.size
        p = coordinates(h, w).to(self.place)
        m = torch.tanh(self.place)
        a, b = self.cholesky[..., :2].exp().unbind(-1)
        x = p[0].reshape(1, 1, -1) - m[..., :1]
        y = p[1].reshape(1, 1, -1) - m[..., 1:]
        first, second = a[..., None] * x, self.cholesky[..., 2:] * x + b[..., None] * y
        weight: Tensor = (-(first.square() + second.square()) / 2).exp()
        u = torch.einsum("ngc,ngp->ncp", self.colour, weight) + self.background[..., None]
        return torch.sigmoid(u).reshape(self.n, self.channels, h, w)
