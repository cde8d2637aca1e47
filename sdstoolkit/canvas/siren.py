"""A picture as a network of its coordinates, with sines between the layers.

    image(p) = sigmoid(W_L h_(L-1) + b_L),   h_l = sin(omega (W_l h_(l-1) + b_l)),   h_0 = p

p in [-1, 1]^2. It has no resolution of its own: any size can be drawn from the same parameters.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from sdstoolkit._typing import Image
from sdstoolkit.canvas.base import Canvas, Size
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, uniform

__all__ = ["Siren", "coordinates"]


class Siren(Canvas):
    """The weights of a sinusoidal network, one network a row.

        image(p) = sigmoid(W_L sin(omega (... sin(omega (W_1 p + b_1)))) + b_L)

    The first weights are U(-1/2, 1/2), the others U(+-sqrt(6 / width) / omega), so that every
    layer is as wide a sine at the start. A step costs `depth` width^2 h w multiplications and one
    pass through the codec's encoder and back beside the loss.

    Sitzmann et al., 2020, https://arxiv.org/abs/2006.09661.

    Args:
        prior: whose codec and size are used.
        n: number of images, at least 1.
        seed: an int, for seed, ..., seed + n - 1, or n distinct seeds.
        size: height and width in pixels, or one number for both; None is the prior's.
        width: of the hidden layers, at least 1.
        depth: hidden layers, at least 1.
        omega: the frequency, above 0; finer detail the higher.

    Raises:
        ValueError: not n distinct seeds, a size that the codec does not take, or such numbers.
    """

    lr = 1e-3

    def __init__(
        self,
        prior: Prior,
        *,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        size: Size = None,
        width: int = 64,
        depth: int = 3,
        omega: float = 30.0,
    ) -> None:
        super().__init__(prior, n=n, seed=seed, size=size)
        if width < 1 or depth < 1 or not 0 < omega < math.inf:
            raise ValueError(
                f"width is {width}, depth {depth} and omega {omega}, expected at least 1 for the "
                "first two and above 0."
            )
        self.omega = omega
        widths = [2] + [width] * depth + [self.channels]
        rng = generators(self.seeds, "canvas")
        self.weight, self.bias = nn.ParameterList(), nn.ParameterList()
        for k, (ins, outs) in enumerate(zip(widths, widths[1:], strict=False)):
            bound = 1 / ins if k == 0 else math.sqrt(6 / ins) / omega
            self.weight.append(_even(rng, (outs, ins), bound).to(prior.device))
            self.bias.append(_even(rng, (outs, 1), bound).to(prior.device))

    def image(self, size: tuple[int, int] | None = None) -> Image:
        """The images, [n, channels, h, w], in [0, 1].

        Args:
            size: another height and width than the canvas's.
        """
        h, w = size or self.size
        x = coordinates(h, w).to(self.weight[0]).reshape(1, 2, h * w).expand(self.n, -1, -1)
        for k, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            x = torch.baddbmm(bias.expand(-1, -1, h * w), weight, x)
            x = torch.sigmoid(x) if k + 1 == len(self.weight) else torch.sin(self.omega * x)
        return x.reshape(self.n, self.channels, h, w)


def coordinates(h: int, w: int) -> Tensor:
    """The centres of the pixels, (x, y) in [-1, 1], [2, h, w]."""
    y, x = ((torch.arange(side) + 0.5) / side * 2 - 1 for side in (h, w))
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)])


def _even(rng: Sequence[Generator], shape: tuple[int, ...], bound: float) -> nn.Parameter:
    return nn.Parameter(((2 * uniform(rng, shape) - 1) * bound).float())
