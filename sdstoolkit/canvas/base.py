"""What every canvas shares: rows, seeds, a size, and the way to the model's space.

    theta  ->  image(theta) in [0, 1]  ->  x_0 = encode(image)

Every parameter has a leading axis of n rows, and row i of the image depends on row i of the
parameters and on seed i only. That is why a seed gives the same image in any batch, and how
`optimize` can stop one row while the others go on.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sdstoolkit._typing import Image, State
from sdstoolkit.codec import Codec
from sdstoolkit.images import grid, write_image
from sdstoolkit.prior import Prior
from sdstoolkit.rng import seeds_of

__all__ = ["Augment", "Canvas", "Size", "check_spread"]

Augment = Callable[[Tensor], Tensor]
Size = int | tuple[int, int] | None


class Canvas(nn.Module, ABC):
    """n images that are optimised side by side; a new kind writes `image` only.

        x_0 = encode(augment(image(theta)))

    Attributes:
        n: number of images.
        seeds: the seed of each, [n].
        size: height and width of an image in pixels.
        channels: of an image, 1 or 3.
        codec: the prior's; its networks are no part of the canvas.
        lr: learning rate that suits the parameters, for Adam.
        direct: whether the parameters are x_0 itself, with no image in the loop.

    Args:
        prior: whose codec and size are used.
        n: number of images, at least 1.
        seed: an int, for seed, ..., seed + n - 1, or n distinct seeds.
        size: height and width in pixels, or one number for both; None is the prior's.

    Raises:
        ValueError: not n distinct seeds, or a size that the codec does not take.
    """

    lr: float = 0.05
    direct: bool = False
    codec: Codec

    def __init__(
        self, prior: Prior, *, n: int = 1, seed: int | Sequence[int] = 0, size: Size = None
    ) -> None:
        super().__init__()
        self.seeds = seeds_of(seed, n)
        self.n = n
        size = prior.size if size is None else size
        self.size = (size, size) if isinstance(size, int) else size
        self.model_shape = prior.codec.shape(n, *self.size)
        self.channels = prior.codec.image_channels
        # Past nn.Module, or the codec's weights would be parameters of the canvas.
        self.__dict__["codec"] = prior.codec

    @abstractmethod
    def image(self) -> Image:
        """The images, [n, channels, h, w], in [0, 1], with their graph."""

    def x_0(self, augment: Augment | None = None) -> State:
        """The images in the model's space, [n, *shape], with their graph.

        Args:
            augment: what happens to the images before they are encoded, image -> image.
        """
        image = self.image()
        return self.codec.encode(image if augment is None else augment(image))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the image, or all of them in a grid, as one file.

        Args:
            path: where to; the suffix says in which format, ``.png`` loses nothing.

        Raises:
            FileNotFoundError: the folder does not exist.
            ValueError: a pixel that is not finite, or an unknown suffix.
        """
        with torch.no_grad():
            image = self.image()
        return write_image(path, image if self.n == 1 else grid(image))

    def files(self, row: int) -> dict[str, bytes]:
        """What one row is besides its pixels: the end of a file's name -> its content.

        Args:
            row: which one, in [0, n).
        """
        return {}

    def state(self) -> dict[str, Tensor]:
        """What there is beside the parameters, by name, so that a run can be put away."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave, for a canvas that was made alike.

        Args:
            state: tensors by name.
        """

    def extra_repr(self) -> str:
        """What ``repr`` adds to the names of the parts."""
        h, w = self.size
        return f"n={self.n}, size=({h}, {w}), channels={self.channels}"

    def start(self, init: Tensor) -> Image:
        """An image to start from, as n images of this canvas's size.

        Args:
            init: [1 or n, channels, h, w] in [0, 1].

        Raises:
            ValueError: another shape, or values outside [0, 1].
        """
        shape, expected = tuple(init.shape), (self.channels, *self.size)
        if init.ndim != 4 or shape[0] not in (1, self.n) or shape[1:] != expected:
            rows = "1" if self.n == 1 else f"1 or {self.n}"
            raise ValueError(
                f"init has shape {list(shape)}, expected [{rows}, {', '.join(map(str, expected))}]"
                "; crop or resize it, or give the canvas its size."
            )
        if not ((init >= 0) & (init <= 1)).all():  # a NaN is not
            raise ValueError("init has values outside [0, 1]; give an image as read_image does.")
        return init.expand(self.n, -1, -1, -1)


def check_spread(init_std: float) -> None:
    """Refuse a standard deviation that is none.

    Raises:
        ValueError: it is negative or not finite.
    """
    if not 0 <= init_std < math.inf:
        raise ValueError(f"init_std is {init_std}, expected a finite number of at least 0.")
