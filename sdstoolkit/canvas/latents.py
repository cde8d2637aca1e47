"""Optimise in the model's own space.

    x_0 = theta,   image = decode(theta),   theta ~ N(0, init_std^2) at the start

No encoder and no decoder is in the loop; an image is decoded when somebody asks for it. It is the
cheapest canvas of a latent model. The price: nothing keeps theta where the decoder was trained,
and blotches of colour are the usual sign of it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdstoolkit._typing import Image, State
from sdstoolkit.canvas.base import Augment, Canvas, Size, check_spread
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal

__all__ = ["Latents"]


class Latents(Canvas):
    """Parameters that are x_0 itself.

        x_0 = theta,   image = decode(theta)

    A step costs the loss and nothing else; looking at the image costs one decoding.

    Metzer et al., 2022, https://arxiv.org/abs/2211.07600.

    Args:
        prior: whose space it is.
        n: number of images, at least 1.
        seed: an int, for seed, ..., seed + n - 1, or n distinct seeds.
        size: height and width of an image in pixels, or one number for both; None is the prior's.
        init: image to start from, [1 or n, channels, h, w] in [0, 1]; it is encoded once.
        init_std: standard deviation of the noise to start from otherwise, at least 0.

    Raises:
        ValueError: not n distinct seeds, a size that the codec does not take, an `init` of another
            size or outside [0, 1], or a negative `init_std`.
    """

    lr = 0.05
    direct = True

    def __init__(
        self,
        prior: Prior,
        *,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        size: Size = None,
        init: Tensor | None = None,
        init_std: float = 0.1,
    ) -> None:
        super().__init__(prior, n=n, seed=seed, size=size)
        check_spread(init_std)
        if init is None:
            rng = generators(self.seeds, "canvas")
            theta = init_std * normal(rng, self.model_shape[1:], device=prior.device)
        else:
            with torch.no_grad():
                theta = self.codec.encode(self.start(init).to(prior.device))
        self.theta = nn.Parameter(theta)

    def x_0(self, augment: Augment | None = None) -> State:
        """The parameters, [n, *shape].

        Raises:
            ValueError: there is something to `augment` with, but no image in the loop.
        """
        if augment is not None:
            raise ValueError("Latents have no image in the loop to augment; use Pixels for that.")
        return self.theta

    def image(self) -> Image:
        """The images, decoded now, [n, channels, h, w].

        A decoder may leave [0, 1] by a little; only writing a file clips.
        """
        return self.codec.decode(self.theta)
