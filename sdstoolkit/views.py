"""Views: one picture that is looked at in several ways, with a loss for each.

    G = sum_k J_k^T G_k(encode(V_k image)),   J_k the Jacobian of V_k, then encode

Upside down it is another picture; so are its mirror image, its negative, its pieces in another
order (Geng, Park and Owens, 2023, https://arxiv.org/abs/2311.17919, for sampling, where a view has
to be orthogonal; for a loss any differentiable one will do).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from sdstoolkit._typing import Image

__all__ = ["LOOKS", "Jigsaw", "Look", "Loss", "View", "as_it_is", "look_of"]

Look = Callable[[Tensor], Tensor]


@runtime_checkable
class Loss(Protocol):
    """What `optimize` descends: any `Distiller`, or a function with this signature.

    Its gradient by row i of x_0 must not depend on the other rows.
    """

    def __call__(
        self, x_0: Tensor, *, progress: float = 0.0, rng: Sequence[Generator] | None = None
    ) -> Tensor:
        """A scalar with a gradient by x_0."""
        ...


def as_it_is(image: Tensor) -> Tensor:
    """The look that changes nothing; `optimize` does not decode for it."""
    return image


class View(NamedTuple):
    """A way to look, and what should be seen.

    Attributes:
        look: image -> image, differentiable, the same for every row.
        loss: of what is seen; any that `optimize` takes.
    """

    look: Look
    loss: Loss


class Jigsaw:
    """The image cut into squares that are laid out in another order.

        V image = pieces[permutation]

    Args:
        pieces: along a side, at least 2; it divides the size of the image.
        seed: of the permutation.

    Raises:
        ValueError: fewer than two pieces; when called, a size that they do not divide.
    """

    def __init__(self, pieces: int, seed: int = 0) -> None:
        if pieces < 2:
            raise ValueError(f"pieces is {pieces}, expected at least 2 along a side.")
        self.pieces = pieces
        self.order = torch.randperm(pieces**2, generator=Generator().manual_seed(seed))

    def __call__(self, image: Image) -> Image:
        """The pieces in the other order."""
        n, c, h, w = image.shape
        k = self.pieces
        if h % k or w % k:
            raise ValueError(f"{h} x {w} pixels do not divide into {k} x {k} pieces.")
        cut = image.reshape(n, c, k, h // k, k, w // k).permute(2, 4, 0, 1, 3, 5).flatten(0, 1)
        laid = cut[self.order.to(image.device)].unflatten(0, (k, k))
        return laid.permute(2, 3, 0, 4, 1, 5).reshape(n, c, h, w)


LOOKS: dict[str, Look] = {
    "mirror": lambda image: image.flip(-1),
    "flip": lambda image: image.flip(-2),
    "rotate90": lambda image: image.rot90(1, (-2, -1)),
    "rotate180": lambda image: image.rot90(2, (-2, -1)),
    "rotate270": lambda image: image.rot90(3, (-2, -1)),
    "negative": lambda image: 1 - image,
    "jigsaw": Jigsaw(4),
}
"""Ways to look by name: mirrored left to right, upside down, turned counter-clockwise, with
inverted colours, and in 4 x 4 pieces."""


def look_of(name: str) -> Look:
    """A way to look by its name.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    if name not in LOOKS:
        raise ValueError(f"There is no view {name!r}, expected one of {', '.join(LOOKS)}.")
    return LOOKS[name]
