"""Pixel art: every cell has one colour of a palette.

    cell = sum_k one_hot(argmax theta)_k c_k,   d cell / d theta := d / d theta sum_k p_k c_k,
    p = softmax(theta / temperature)

What is shown is the palette's colours and nothing between; the gradient is that of the soft
mixture (the straight-through estimator of Bengio, Leonard and Courville, 2013,
https://arxiv.org/abs/1308.3432). A file of it is a PNG with that palette.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdstoolkit._files import write_atomically
from sdstoolkit._typing import Image
from sdstoolkit.canvas.base import Canvas, Size
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal

__all__ = ["Palette"]

SIXTEEN = (
    "1a1c2c 5d275d b13e53 ef7d57 ffcd75 a7f070 38b764 257179 "
    "29366f 3b5dc9 41a6f6 73eff7 f4f4f4 94b0c2 566c86 333c57"
)


class Palette(Canvas):
    """A grid of cells in the colours of a palette.

        image = cells of softmax(theta / temperature), shown as their argmax

    A step costs one pass through the codec's encoder and back beside the loss.

    Binninger et al. (SD-piXL), 2024, https://arxiv.org/abs/2410.06236.

    Args:
        prior: whose codec and size are used.
        n: number of images, at least 1.
        seed: an int, for seed, ..., seed + n - 1, or n distinct seeds.
        size: height and width in pixels, or one number for both; None is the prior's.
        colours: the palette: 2 to 256 colours as hexadecimal words, such as ``"ff0000 ffffff"``.
        cell: pixels on the side of a cell; it divides the size.
        temperature: of the softmax, above 0.
        init_std: standard deviation of theta to start from, above 0, or all cells would agree.

    Raises:
        ValueError: not n distinct seeds, a size that the codec or the cells do not take, a palette
            that is none, a prior of grey images, or a number that is not above 0.
    """

    lr = 0.05

    def __init__(
        self,
        prior: Prior,
        *,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        size: Size = None,
        colours: str = SIXTEEN,
        cell: int = 2,
        temperature: float = 1.0,
        init_std: float = 0.1,
    ) -> None:
        super().__init__(prior, n=n, seed=seed, size=size)
        h, w = self.size
        if cell < 1 or h % cell or w % cell:
            raise ValueError(f"cell is {cell}, expected a divisor of the size, {h} x {w} pixels.")
        if not (0 < temperature < math.inf and 0 < init_std < math.inf):
            raise ValueError(
                f"temperature is {temperature} and init_std {init_std}, expected both above 0."
            )
        if self.channels != 3:
            raise ValueError("A palette has colours, and this prior's images are grey.")
        self.cell, self.temperature = cell, temperature
        self.register_buffer("colours", _read(colours).to(prior.device), persistent=False)
        shape = (len(self.colours), h // cell, w // cell)
        rng = generators(self.seeds, "canvas")
        self.theta = nn.Parameter(init_std * normal(rng, shape, device=prior.device))

    colours: Tensor

    def soft(self) -> Image:
        """The mixtures whose gradient the image has, [n, 3, h, w]."""
        return self._paint((self.theta / self.temperature).softmax(1))

    def image(self) -> Image:
        """The images, [n, 3, h, w], in the palette's colours only."""
        soft = (self.theta / self.temperature).softmax(1)
        hard = functional.one_hot(self.indices(), len(self.colours)).permute(0, 3, 1, 2)
        shown = self._paint(hard.to(soft))
        return shown + (self._paint(soft) - self._paint(soft).detach())

    def indices(self) -> Tensor:
        """The colour of each cell, int64 [n, h / cell, w / cell]."""
        return self.theta.argmax(1)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one image as a PNG with this palette; several, or another format, as any canvas.

        Args:
            path: where to.

        Raises:
            ValueError: as `Canvas.save`.
        """
        if self.n > 1 or Path(path).suffix.lower() != ".png":
            return super().save(path)
        return write_atomically(Path(path), self.files(0)["palette.png"])

    def files(self, row: int) -> dict[str, bytes]:
        """A PNG of one row, one byte a pixel, with the palette in it."""
        from PIL import Image as Pictures

        cells = self.indices()[row].to("cpu", torch.uint8).numpy()
        picture = Pictures.fromarray(cells.repeat(self.cell, 0).repeat(self.cell, 1))
        picture.putpalette((self.colours * 255).round().to("cpu", torch.uint8).numpy().tobytes())
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        return {"palette.png": buffer.getvalue()}

    def _paint(self, shares: Tensor) -> Tensor:
        cells = torch.einsum("nkhw,kc->nchw", shares, self.colours.to(shares))
        return cells.repeat_interleave(self.cell, 2).repeat_interleave(self.cell, 3)


def _read(words: str) -> Tensor:
    """Hexadecimal colours, [K, 3] in [0, 1]."""
    colours = words.replace(",", " ").replace("#", "").split()
    try:
        values = [list(bytes.fromhex(word)) for word in colours]
    except ValueError:
        values = []
    if not 2 <= len(values) <= 256 or any(len(v) != 3 for v in values):
        raise ValueError(f"colours is {words!r}, expected 2 to 256 words such as ff8000.")
    return torch.tensor(values, dtype=torch.float32) / 255
