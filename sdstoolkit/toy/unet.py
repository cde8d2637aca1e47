"""A small U-Net that learns the score of images from 8 x 8 to 32 x 32.

A block adds to its input a residual that time scales and shifts,

    h <- h + conv(silu(norm(conv(silu(norm(h)))) (1 + gamma(t)) + beta(t)))

On the way down each width has one block, on the way up one that reads the way down beside it, and
the lowest one more. It stands between the scales of :mod:`sdstoolkit.toy.score_network`.

References:
    Ronneberger, Fischer and Brox, U-Net, 2015, https://arxiv.org/abs/1505.04597
    Song and Ermon, Improved Techniques for Training Score-Based Generative Models, 2020,
    https://arxiv.org/abs/2006.09011
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdstoolkit.noise import Schedule
from sdstoolkit.prediction import Parameterization
from sdstoolkit.toy.score_network import ScoreNetwork

__all__ = ["UNetScore"]

TIME_WIDTH = 128


class UNetScore(ScoreNetwork):
    """A time-conditioned U-Net as a score model of small images.

        out = F(x_t / sqrt(alpha^2 d^2 + sigma^2), t) sqrt(a^2 d^2 + b^2),   d = sigma_data

    Args:
        shape: of an image, [c, h, w]; h and w from 8 to 32 and multiples of 2^(levels - 1).
        schedule: the noise schedule.
        parameterization: what the network is to return.
        widths: channels of each level, the finest first, multiples of 8; at least 8.
        features: K, frequencies of the time features, at least 1.
        sigma_data: the data's standard deviation d, above 0; Karras's own, else 1.
        seed: names the first weights.

    Raises:
        ValueError: a shape or widths that do not fit, or sigma_data not above 0.
    """

    def __init__(
        self,
        shape: Sequence[int],
        schedule: Schedule,
        parameterization: Parameterization,
        *,
        widths: Sequence[int] = (32, 64),
        features: int = 8,
        sigma_data: float | None = None,
        seed: int = 0,
    ) -> None:
        widths = tuple(widths)
        if not widths or any(w < 8 or w % 8 for w in widths):
            raise ValueError(f"widths = {widths} are not one multiple of 8 or more.")
        halvings = 2 ** (len(widths) - 1)
        if len(shape) != 3 or any(not 8 <= side <= 32 or side % halvings for side in shape[1:]):
            raise ValueError(
                f"shape = {list(shape)} is not [c, h, w] with sides from 8 to 32 that are"
                f" multiples of {halvings}."
            )
        sizes = {"shape": tuple(shape), "widths": widths, "features": features}
        super().__init__(shape, schedule, parameterization, sizes, sigma_data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.time = nn.Sequential(nn.Linear(2 * features, TIME_WIDTH), nn.SiLU())
            self.first = nn.Conv2d(shape[0], widths[0], 3, padding=1)
            befores = (widths[0], *widths[:-1])
            self.down = nn.ModuleList(map(_Block, befores, widths))
            self.middle = _Block(widths[-1], widths[-1])
            afters = (*widths[1:], widths[-1])
            self.up = nn.ModuleList(
                _Block(after + width, width) for after, width in zip(afters, widths, strict=True)
            )
            self.norm = nn.GroupNorm(4, widths[0])
            self.last = nn.Conv2d(widths[0], shape[0], 3, padding=1)
        for p in self.last.parameters():
            nn.init.zeros_(p)

    def body(self, h: Tensor, phi: Tensor) -> Tensor:
        """Down, and up again, as `ScoreNetwork.body`."""
        time, h, passed = self.time(phi), self.first(h), []
        for level, block in enumerate(self.down):
            h = block(F.avg_pool2d(h, 2) if level else h, time)
            passed.append(h)
        h = self.middle(h, time)
        for level in reversed(range(len(self.up))):
            h = self.up[level](torch.cat([h, passed[level]], 1), time)
            h = F.interpolate(h, scale_factor=2.0) if level else h
        return self.last(F.silu(self.norm(h)))


class _Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(4, before), nn.GroupNorm(4, after)])
        first, second = (nn.Conv2d(width, after, 3, padding=1) for width in (before, after))
        self.convolutions = nn.ModuleList([first, second])
        self.time = nn.Linear(TIME_WIDTH, 2 * after)
        self.past = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        nn.init.zeros_(second.weight)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
        inner = self.convolutions[0](F.silu(self.norms[0](h)))
        inner = self.norms[1](inner) * (1 + scale) + shift
        return self.past(h) + self.convolutions[1](F.silu(inner))
