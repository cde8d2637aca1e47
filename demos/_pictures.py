"""What the tabs draw: curves as SVG in the page's own colours, maps and points as images.

Nothing here loads anything from anywhere; a curve is text inside of the page.
"""

import html
import math
from collections.abc import Callable, Sequence

import torch
from PIL import Image as Pillow
from torch import Tensor

__all__ = ["curve", "dots", "heat", "lines", "picture", "plane"]

_WIDTH, _HEIGHT = 640, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 26
_MAGMA = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))
_BLUES = ((255, 255, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))


def picture(image: Tensor) -> Pillow.Image:
    """An image tensor, [1, c, h, w] or [c, h, w] in [0, 1], for gradio."""
    values = image.detach().float().cpu().reshape(-1, *image.shape[-2:]).nan_to_num(0.5)
    pixels = (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Pillow.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def heat(gradient: Tensor, size: tuple[int, int]) -> Pillow.Image:
    """The size of a gradient at every place, [n, c, h, w], each row on its own scale.

    Rows stand side by side as `images.grid` lays them out.
    """
    from sdstoolkit.images import grid

    norm = gradient.detach().float().cpu().norm(dim=1, keepdim=True)
    norm = norm / norm.amax((1, 2, 3), keepdim=True).clamp_min(1e-30)
    large = torch.nn.functional.interpolate(norm, size, mode="nearest")
    return picture(grid(colours(large, _MAGMA)) if len(large) > 1 else colours(large, _MAGMA))


def colours(values: Tensor, stops: Sequence[tuple[int, int, int]]) -> Tensor:
    """Values in [0, 1], [n, 1, h, w], as colours between evenly spaced stops, [n, 3, h, w]."""
    table = torch.tensor(stops, dtype=torch.float32) / 255
    at = values.nan_to_num(0).clamp(0, 1) * (len(table) - 1)
    low = at.floor().long().clamp(max=len(table) - 2)
    mixed = torch.lerp(table[low[:, 0]], table[low[:, 0] + 1], (at - low)[:, 0, ..., None])
    return mixed.permute(0, 3, 1, 2)


def curve(
    points: Sequence[tuple[float, float]],
    *,
    label: str,
    total: float,
    shades: Sequence[float] | None = None,
) -> str:
    """A jagged curve and the mean of its last ten values, on a logarithmic axis, as SVG.

    Args:
        points: Step and value; what is not above 0 is left out.
        label: What the values are.
        total: The last step there will be.
        shades: A number in [0, 1] a point, drawn as its colour: the time t.
    """
    seen = [(x, y, k) for k, (x, y) in enumerate(points) if math.isfinite(y) and y > 0]
    body = ""
    if seen:
        low, high = (f(math.log10(y) for _, y, _ in seen) for f in (min, max))
        low, high = low - 0.05, max(high, low + 0.3) + 0.05

        def place(x: float, y: float) -> tuple[float, float]:
            right = _LEFT + (x / max(total, 1)) * (_WIDTH - _LEFT - _RIGHT)
            up = (math.log10(y) - low) / (high - low)
            return right, _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

        for k in range(math.ceil(low * 2), math.floor(high * 2) + 1):
            y = place(0, 10 ** (k / 2))[1]
            body += f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}"'
            body += f' y2="{y:.1f}"/><text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            body += f"{10 ** (k / 2):.2g}</text>"
        for x, y, k in seen:
            shade = 0.5 if shades is None or k >= len(shades) else min(max(shades[k], 0), 1)
            cx, cy = place(x, y)
            hue = 265 - 230 * shade
            body += f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="2.2" fill="hsl({hue:.0f} 75% 58%)"/>'
        means = []
        for k, (x, _, _) in enumerate(seen):
            last = [y for _, y, _ in seen[max(0, k - 9) : k + 1]]
            means.append(place(x, sum(last) / len(last)))
        body += f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in means)}"/>'
    foot = f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">step {total:g}</text>'
    key = f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{html.escape(label)}</text>'
    return (
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(label)}">{body}{key}{foot}</svg>'
    )


def lines(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values as a table; everything is escaped."""
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return f'<table class="facts">{cells}</table>'


def plane(
    log_prob: Callable[[Tensor], Tensor], *, extent: float, size: int = 384
) -> Tensor:
    """A density in the plane over [-extent, extent]^2 as an image, [1, 3, size, size]."""
    few = size // 3
    axis = torch.linspace(-extent, extent, few)
    at = torch.stack(torch.meshgrid(axis.flip(0), axis, indexing="ij")[::-1], -1).reshape(-1, 2)
    with torch.no_grad():
        density = log_prob(at).float()
    density = (density - density.max()).exp().reshape(1, 1, few, few)
    shown = colours(density.sqrt(), _BLUES)
    return torch.nn.functional.interpolate(shown, (size, size), mode="bilinear")


def dots(ground: Tensor, points: Tensor, *, extent: float) -> Tensor:
    """Points in the plane, [n, 2], on an image of `plane`: dark orange, three pixels wide."""
    image, size = ground.clone(), ground.shape[-1]
    inside = (points.abs() < extent).all(1) & points.isfinite().all(1)
    at = ((points[inside].float() / extent + 1) / 2 * (size - 1)).round().long()
    columns, rows = at[:, 0], size - 1 - at[:, 1]
    ink = torch.tensor([0.86, 0.33, 0.02])[:, None]
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y, x = (rows + dy).clamp(0, size - 1), (columns + dx).clamp(0, size - 1)
            old = image[0, :, y, x]
            image[0, :, y, x] = torch.lerp(old, ink.expand_as(old), 1.0 if dx * dy == 0 else 0.45)
    return image


