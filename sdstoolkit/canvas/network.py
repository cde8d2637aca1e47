"""A picture as what a convolutional network makes of fixed noise: the deep image prior.

    image = f_theta(z),   z ~ N(0, I) fixed

The network is no model of anything; its shape alone prefers pictures that are smooth here and
sharp there, and finds noise hard to draw (Ulyanov, Vedaldi and Lempitsky, 2017,
https://arxiv.org/abs/1711.10925).
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from sdstoolkit._typing import Image
from sdstoolkit.canvas.base import Canvas, Size
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal

__all__ = ["Network"]


class Network(Canvas):
    """The weights of a small generator, one network a row.

        h_0 = z,   h_l = leaky(norm(conv(up(h_(l-1))))),   image = sigmoid(conv_1x1(h_L))

    z has one eighth of the size at three levels. A step costs the generator both ways, and one
    pass through the codec's encoder and back, beside the loss.

    Args:
        prior: whose codec and size are used.
        n: number of images, at least 1.
        seed: an int, for seed, ..., seed + n - 1, or n distinct seeds.
        size: height and width in pixels, or one number for both; None is the prior's.
        width: channels of the hidden layers, at least 1.
        levels: doublings, at least 1; the size is divisible by 2^levels.

    Raises:
        ValueError: not n distinct seeds, a size that the codec or the levels do not take, or such
            numbers.
    """

    lr = 0.01

    def __init__(
        self,
        prior: Prior,
        *,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        size: Size = None,
        width: int = 24,
        levels: int = 3,
    ) -> None:
        super().__init__(prior, n=n, seed=seed, size=size)
        h, w = self.size
        if width < 1 or levels < 1 or h % 2**levels or w % 2**levels:
            raise ValueError(
                f"width is {width} and levels {levels}, expected at least 1, and {h} x {w} pixels "
                "divisible by 2^levels."
            )
        rng, device = generators(self.seeds, "canvas"), prior.device
        z = normal(rng, (width, h // 2**levels, w // 2**levels), device=device)
        self.register_buffer("z", z)
        kernels = [_kernel(rng, (width, width, 3, 3)) for _ in range(levels)]
        self.kernel = nn.ParameterList(k.to(device) for k in kernels)
        self.gain = nn.ParameterList(torch.ones(n, width, device=device) for _ in kernels)
        self.shift = nn.ParameterList(torch.zeros(n, width, device=device) for _ in kernels)
        self.last = nn.Parameter(_kernel(rng, (self.channels, width, 1, 1)).to(device))
        self.bias = nn.Parameter(torch.zeros(n, self.channels, device=device))

    z: Tensor

    def image(self) -> Image:
        """The images, [n, channels, h, w], in [0, 1]."""
        x = self.z
        for kernel, gain, shift in zip(self.kernel, self.gain, self.shift, strict=True):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = functional.instance_norm(_each(x, kernel))
            x = gain[..., None, None] * x + shift[..., None, None]
            x = functional.leaky_relu(x, 0.2)
        return torch.sigmoid(_each(x, self.last) + self.bias[..., None, None])


def _kernel(rng: Sequence[Generator], shape: tuple[int, ...]) -> Tensor:
    return normal(rng, shape) / math.sqrt(math.prod(shape[1:]))


def _each(x: Tensor, kernel: Tensor) -> Tensor:
    """A convolution in which every row has a kernel of its own."""
    n, c, h, w = x.shape
    pad = kernel.shape[-1] // 2
    x = functional.pad(
        x.reshape(1, n * c, h, w), (pad,) * 4, mode="reflect" if pad else "constant"
    )
    return functional.conv2d(x, kernel.flatten(0, 1), groups=n).reshape(n, -1, h, w)
