"""Pixels on a pyramid of octaves.

    image = sigmoid(u_L),   u_1 = theta_1,   u_l = U u_(l-1) + decay^(l-1) theta_l

theta_1 is the coarsest of L grids, each twice as fine as the one before, theta_L is as large as
the image, and U interpolates linearly. What can be shown is what plain pixels (L = 1) can show;
what changes is the metric of the descent. A step of Adam moves each parameter by about the
learning rate, however small its gradient, so plain pixels take as long a step in every frequency.
Here an octave moves by decay times what the next lower one does, and decay = 1/2 is the amplitude
1/f of natural images. That is wanted: an encoder hardly sees the highest frequencies, so their
gradient is mostly noise that nothing undoes, and it settles on top of the right shapes. (Olah,
Mordvintsev and Schubert, 2017, https://doi.org/10.23915/distill.00007, met the same in feature
visualisation and preconditioned it away in Fourier space.)

The sigmoid keeps the image in [0, 1] without a projection after the step, for any optimiser. It
slows down towards the ends and reaches them by rounding only, so an `init` is moved there by up to
a quarter of a grey level of a file, which no file shows.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdstoolkit._typing import Image
from sdstoolkit.canvas.base import Canvas, Size, check_spread
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal

__all__ = ["Pixels"]

COARSEST = 4  # pixels on the shorter side of theta_1, unless `levels` says otherwise
MARGIN = 1 / 1020  # a quarter of a grey level of a file


class Pixels(Canvas):
    """Pixels, preconditioned towards low frequencies.

        image = sigmoid(sum_l decay^(l-1) U_l theta_l),   l = 1 (coarsest) ... levels (pixels)

    A step costs one pass through the codec's encoder and back beside the loss.

    Burt and Adelson, 1983, https://doi.org/10.1109/TCOM.1983.1095851 (the pyramid).

    Args:
        prior: whose codec and size are used.
        n: number of images, at least 1.
        seed: an int, for seed, ..., seed + n - 1, or n distinct seeds.
        size: height and width in pixels, or one number for both; None is the prior's.
        init: image to start from, [1 or n, channels, h, w] in [0, 1].
        init_std: otherwise it starts from grey with noise on every grid, of at most this standard
            deviation in all (before the sigmoid; a quarter of it in the image); at least 0.
        levels: number of grids; 1 is plain pixels, None goes down to 4 pixels.
        decay: gain of a grid relative to the next coarser one, above 0; 1 treats all alike.

    Raises:
        ValueError: not n distinct seeds, a size that the codec does not take, an `init` of another
            size or outside [0, 1], more levels than there are octaves, a negative `init_std`, or a
            `decay` that is not above 0.
    """

    lr = 0.05

    def __init__(
        self,
        prior: Prior,
        *,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        size: Size = None,
        init: Tensor | None = None,
        init_std: float = 0.1,
        levels: int | None = None,
        decay: float = 0.5,
    ) -> None:
        super().__init__(prior, n=n, seed=seed, size=size)
        check_spread(init_std)
        short = min(self.size)
        if levels is None:
            levels = max(1, ((short - 1) // (COARSEST - 1)).bit_length())
        if not 1 <= levels <= short.bit_length():
            raise ValueError(
                f"levels is {levels}, expected 1 (plain pixels) to {short.bit_length()}, the "
                f"octaves in {short} pixels."
            )
        if not 0 < decay < math.inf:
            raise ValueError(f"decay is {decay}, expected a finite number above 0.")
        self.gains = [decay**level for level in range(levels)]
        sizes = [tuple(-(-side // 2**k) for side in self.size) for k in reversed(range(levels))]
        self._shapes = [(self.channels, *size) for size in sizes]
        if init is None:
            rng, std = generators(self.seeds, "canvas"), init_std / math.hypot(*self.gains)
            theta = [std * normal(rng, shape) for shape in self._shapes]
        else:
            theta = [torch.zeros(n, *shape) for shape in self._shapes]
            inside = self.start(init).to(theta[-1]).clamp(MARGIN, 1 - MARGIN)
            theta[-1] = torch.logit(inside) / self.gains[-1]
        # one tensor: a step of an optimiser then takes no longer for many grids than for one
        self.theta = nn.Parameter(torch.cat([v.flatten(1) for v in theta], 1).to(prior.device))
        for level, (small, large) in enumerate(zip(sizes, sizes[1:], strict=False), start=1):
            height, width = map(_interpolation, small, large)
            self.register_buffer(f"_h{level}", height.to(prior.device), persistent=False)
            self.register_buffer(f"_w{level}", width.T.to(prior.device), persistent=False)

    def grids(self) -> list[Image]:
        """theta_1 to theta_L, coarsest first, [n, channels, h, w] each; views of `theta`."""
        return [part.unflatten(1, shape) for part, shape in self._parts()]

    def image(self) -> Image:
        """The images, [n, channels, h, w], in [0, 1]."""
        u, *finer = (part.reshape(-1, *shape[1:]) for part, shape in self._parts())
        for level, added in enumerate(finer, start=1):
            # Products with matrices: the gradient of functional.interpolate is not deterministic
            # on a GPU, and the same seed must give the same image twice.
            wide = u @ self.get_buffer(f"_w{level}")
            high = self.get_buffer(f"_h{level}").expand(len(u), -1, -1)
            u = torch.baddbmm(added, high, wide, beta=self.gains[level])
        return torch.sigmoid(u).unflatten(0, (self.n, self.channels))

    def _parts(self) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        """The part of `theta` that each grid is, flat, with the shape of a row."""
        parts = self.theta.split([math.prod(shape) for shape in self._shapes], 1)
        return zip(parts, self._shapes, strict=True)


def _interpolation(small: int, large: int) -> Tensor:
    """Linear interpolation from `small` to `large` samples as a matrix, [large, small]."""
    unit = torch.eye(small)[None]
    rows = functional.interpolate(unit, size=large, mode="linear", align_corners=False)
    return rows[0].T.contiguous()
