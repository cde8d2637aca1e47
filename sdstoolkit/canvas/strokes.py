"""A drawing of Bezier curves, and an SVG of it.

A cubic curve B(s) is a polyline of short segments; with d(p) the distance of a pixel's centre from
it, a stroke of width b covers

    kappa(p) = sigmoid((b / 2 - d(p)) / soft),

and a filled path sigmoid(+-d(p) / soft), + inside by the non-zero winding rule. Paths are laid
over each other, image <- (1 - kappa o) image + kappa o colour. With soft = 0.25 pixels the ramp is
as steep as an anti-aliased edge. Everything is an ordinary tensor operation.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sdstoolkit._files import write_atomically
from sdstoolkit._typing import Image
from sdstoolkit.canvas.base import Canvas, Size
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, uniform

__all__ = ["Strokes"]

SAMPLES = 8  # segments that a cubic curve is drawn as
SOFT = 0.25  # pixels


class Strokes(Canvas):
    """Curved strokes, or closed shapes that are filled.

        image = over_k(coverage_k opacity_k, colour_k) on a background

    A step costs 8 `paths` `curves` h w distances, both ways, and one pass through the codec's
    encoder and back beside the loss.

    Jain, Xie and Abbeel (VectorFusion), 2022, https://arxiv.org/abs/2211.11319.

    Args:
        prior: whose codec and size are used; images in colour.
        n: number of images, at least 1.
        seed: an int, for seed, ..., seed + n - 1, or n distinct seeds.
        size: height and width in pixels, or one number for both; None is the prior's.
        paths: in an image, at least 1.
        curves: cubic curves in a path, at least 1; 2 or more for closed ones.
        filled: closed paths that are filled instead of strokes.
        width: of a stroke at the start, in pixels, above 0.

    Raises:
        ValueError: not n distinct seeds, a size that the codec does not take, a prior of grey
            images, or such numbers.
    """

    lr = 0.02

    def __init__(
        self,
        prior: Prior,
        *,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        size: Size = None,
        paths: int = 24,
        curves: int = 2,
        filled: bool = False,
        width: float = 3.0,
    ) -> None:
        super().__init__(prior, n=n, seed=seed, size=size)
        if paths < 1 or curves < 1 + filled or not 0 < width < float("inf"):
            raise ValueError(
                f"paths is {paths}, curves {curves} and width {width}, expected at least 1, at "
                f"least {1 + filled} and above 0."
            )
        if self.channels != 3:
            raise ValueError("Strokes have colours, and this prior's images are grey.")
        self.filled = filled
        rng, device = generators(self.seeds, "canvas"), prior.device
        count = 3 * curves + (not filled)  # of points; a closed path ends in its first

        def drawn(*shape: int) -> Tensor:
            return uniform(rng, shape).float().to(device)

        centre = drawn(paths, 1, 2)
        if filled:
            angle = 2 * torch.pi * torch.arange(count, device=device) / count
            ring = torch.stack([angle.cos(), angle.sin()], -1)
            points = centre + (0.05 + 0.1 * drawn(paths, 1, 1)) * ring
        else:
            points = centre + 0.1 * (drawn(paths, count, 2) - 0.5).cumsum(2)
        self.points = nn.Parameter(points)  # in units of the image, (x, y) in [0, 1]
        self.width = nn.Parameter(torch.full((n, paths), width, device=device).log())
        self.colour = nn.Parameter(torch.logit(0.1 + 0.8 * drawn(paths, 3)))
        self.opacity = nn.Parameter(torch.full((n, paths), 1.0, device=device))
        self.background = nn.Parameter(torch.full((n, 3), 2.0, device=device))

    def image(self) -> Image:
        """The images, [n, 3, h, w], in [0, 1]."""
        h, w = self.size
        y = torch.arange(h, device=self.points.device) + 0.5
        x = torch.arange(w, device=self.points.device) + 0.5
        p = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1).reshape(-1, 2)
        p = p.to(self.points)
        image = torch.sigmoid(self.background)[..., None].expand(-1, -1, h * w)
        colour, opacity = torch.sigmoid(self.colour), torch.sigmoid(self.opacity)
        lines = self._polylines()
        for k in range(self.points.shape[1]):
            near, inside = _distance(lines[:, k], p, self.filled)
            if self.filled:
                depth = torch.where(inside, near, -near)
            else:
                depth = self.width[:, k, None].exp() / 2 - near
            share = (torch.sigmoid(depth / SOFT) * opacity[:, k, None])[:, None]
            image = image + share * (colour[:, k, :, None] - image)
        return image.reshape(self.n, 3, h, w)

    def _polylines(self) -> Tensor:
        """The corners of the paths in pixels, [n, paths, corners, 2]."""
        h, w = self.size
        points = self.points * self.points.new_tensor([w, h])
        if self.filled:
            points = torch.cat([points, points[:, :, :1]], 2)
        a, b, c, d = (
            points[:, :, k : points.shape[2] - 3 + k : 3, None]
            if k < 3
            else points[:, :, 3::3, None]
            for k in range(4)
        )
        s = torch.linspace(0, 1, SAMPLES + 1, device=points.device, dtype=points.dtype)[:-1, None]
        curve = (1 - s) ** 3 * a + 3 * (1 - s) ** 2 * s * b + 3 * (1 - s) * s**2 * c + s**3 * d
        return torch.cat([curve.flatten(2, 3), points[:, :, -1:]], 2)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one image as an SVG; several, or another format, as any canvas.

        Args:
            path: where to; ``.svg`` writes the curves themselves.

        Raises:
            ValueError: an SVG of several images, or as `Canvas.save`.
        """
        if Path(path).suffix.lower() != ".svg":
            return super().save(path)
        if self.n > 1:
            raise ValueError(f"An SVG holds one drawing, and this canvas has {self.n}.")
        return write_atomically(Path(path), self.files(0)["svg"])

    def files(self, row: int) -> dict[str, bytes]:
        """The SVG of one row."""
        h, w = self.size
        with torch.no_grad():
            points = (self.points[row] * self.points.new_tensor([w, h])).tolist()
            colours = [_hex(c) for c in torch.sigmoid(self.colour[row])]
            opacities = torch.sigmoid(self.opacity[row]).tolist()
            widths = self.width[row].exp().tolist()
            background = _hex(torch.sigmoid(self.background[row]))
        size = f'width="{w}" height="{h}" viewBox="0 0 {w} {h}"'
        lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>']
        lines.append(f'<rect width="{w}" height="{h}" fill="{background}"/>')
        for path, colour, opacity, width in zip(points, colours, opacities, widths, strict=True):
            drawn = path + path[:1] if self.filled else path
            text = [f"{x:.3f},{y:.3f}" for x, y in drawn]
            d = f"M{text[0]} C{' '.join(text[1:])}{' Z' if self.filled else ''}"
            if self.filled:
                paint = f'fill="{colour}" fill-opacity="{opacity:.4f}"'
            else:
                paint = (
                    f'fill="none" stroke="{colour}" stroke-opacity="{opacity:.4f}" '
                    f'stroke-width="{width:.3f}" stroke-linecap="round" stroke-linejoin="round"'
                )
            lines.append(f'<path d="{d}" {paint}/>')
        return {"svg": "\n".join([*lines, "</svg>", ""]).encode()}


def _distance(corners: Tensor, p: Tensor, closed: bool) -> tuple[Tensor, Tensor]:
    """How far points are from polylines, and whether they are inside.

    Args:
        corners: [n, m, 2].
        p: [k, 2].
        closed: whether there is an inside.

    Returns:
        Distances, [n, k], and bool [n, k].
    """
    a, b = corners[:, :-1, None], corners[:, 1:, None]
    along, away = b - a, p - a
    length = along.square().sum(-1).clamp(min=1e-12)
    s = ((away * along).sum(-1) / length).clamp(0, 1)
    gap = away - s[..., None] * along
    near = (gap.square().sum(-1).min(1).values + 1e-12).sqrt()
    if not closed:
        return near, torch.zeros_like(near, dtype=torch.bool)
    with torch.no_grad():
        side = along[..., 0] * away[..., 1] - along[..., 1] * away[..., 0]
        up = (a[..., 1] <= p[:, 1]) & (b[..., 1] > p[:, 1]) & (side > 0)
        down = (a[..., 1] > p[:, 1]) & (b[..., 1] <= p[:, 1]) & (side < 0)
        return near, (up.long() - down.long()).sum(1) != 0


def _hex(colour: Tensor) -> str:
    return "#" + bytes((colour.clamp(0, 1) * 255).round().int().tolist()).hex()
