"""A texture that continues across its edges: pixels on a torus.

    image = sigmoid(sum_l decay^(l-1) U_l theta_l),   U periodic;   x_0 = encode(roll(image))

As `Pixels`, a pyramid of octaves, but its interpolation wraps around; and a loss sees the image
rolled by a random amount, so that no place of it is an edge. Laid side by side, copies have no
seam.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from sdstoolkit._typing import Image, State
from sdstoolkit.canvas.base import Augment, Canvas, Size, check_spread
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal, uniform

__all__ = ["Tile"]


class Tile(Canvas):
    """A tileable texture.

        x_0 = encode(roll(image, random))

    A step costs one pass through the codec's encoder and back beside the loss.

    Args:
        prior: whose codec and size are used.
        n: number of images, at least 1.
        seed: an int, for seed, ..., seed + n - 1, or n distinct seeds.
        size: height and width in pixels, or one number for both; None is the prior's.
        init_std: standard deviation of theta to start from, at least 0.
        levels: number of grids, each half of the next; the size is divisible by 2^(levels - 1).
        decay: gain of a grid relative to the next coarser one, above 0.

    Raises:
        ValueError: not n distinct seeds, a size that the codec or the levels do not take, or such
            numbers.
    """

    lr = 0.05

    def __init__(
        self,
        prior: Prior,
        *,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        size: Size = None,
        init_std: float = 0.1,
        levels: int = 3,
        decay: float = 0.5,
    ) -> None:
        super().__init__(prior, n=n, seed=seed, size=size)
        check_spread(init_std)
        h, w = self.size
        if levels < 1 or h % 2 ** (levels - 1) or w % 2 ** (levels - 1):
            raise ValueError(
                f"levels is {levels}, expected at least 1, with {h} x {w} pixels divisible by "
                "2^(levels - 1)."
            )
        if not decay > 0:
            raise ValueError(f"decay is {decay}, expected a number above 0.")
        self.decay = decay
        rng = generators(self.seeds, "canvas")
        sizes = [(h // 2**k, w // 2**k) for k in reversed(range(levels))]
        grids = [init_std * normal(rng, (self.channels, *s), device=prior.device) for s in sizes]
        self.theta = nn.ParameterList(grids)
        self._roll: list[Generator] = generators(self.seeds, "roll")

    def image(self) -> Image:
        """The images, [n, channels, h, w], in [0, 1]; their edges meet."""
        u = self.theta[0]
        for k, theta in enumerate(self.theta[1:], start=1):
            u = torch.add(_double(_double(u, 2), 3), theta, alpha=self.decay**k)
        return torch.sigmoid(u)

    def x_0(self, augment: Augment | None = None) -> State:
        """The images, rolled at random, in the model's space.

        Args:
            augment: what happens to the rolled images before they are encoded.
        """
        h, w = self.size
        shifts = (uniform(self._roll, (2,)) * torch.tensor([h, w])).long().tolist()
        rolled = torch.stack([
            row.roll(tuple(by), (1, 2)) for row, by in zip(self.image(), shifts, strict=True)
        ])  # fmt: skip
        return self.codec.encode(rolled if augment is None else augment(rolled))

    def state(self) -> dict[str, Tensor]:
        """Where the draws of the rolls are, a row a row."""
        return {"roll": torch.stack([generator.get_state() for generator in self._roll])}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the rolls from where `state` was taken.

        Args:
            state: what `state` gave.
        """
        for generator, saved in zip(self._roll, state["roll"], strict=True):
            generator.set_state(saved.clone())


def _double(u: Tensor, axis: int) -> Tensor:
    """Linear interpolation to twice the samples along an axis, around the torus."""
    before, after = u.roll(1, axis), u.roll(-1, axis)
    pair = torch.stack([0.75 * u + 0.25 * before, 0.75 * u + 0.25 * after], axis + 1)
    return pair.flatten(axis, axis + 1)
