r"""The world of the bundled model: anti-aliased drawings and a small grammar that describes them.

A scene holds one or two objects (shape, colour, size, place) on a plain background and a quality.
An object of radius :math:`r` px whose outline has the signed distance :math:`d` covers a pixel by

.. math:: \kappa(p) = \operatorname{clip}\bigl(\tfrac12 - r\, d((p - c) / r),\ 0,\ 1\bigr),

exact to first order for a straight edge through a square pixel. Scenes are drawn from an explicit
generator, so a data set is a seed. One fifth of the (shape, colour, background) triples is held
out of training, :func:`held_out`; every pair of the three is still seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

SHAPES = ("circle", "square", "triangle", "heart", "star", "ring", "cross", "diamond", "x")
COLOURS = {
    "red": (0.86, 0.16, 0.16),
    "green": (0.18, 0.62, 0.25),
    "blue": (0.16, 0.32, 0.84),
    "yellow": (0.96, 0.85, 0.18),
    "orange": (0.96, 0.53, 0.12),
    "purple": (0.55, 0.22, 0.68),
    "white": (0.96, 0.96, 0.96),
    "black": (0.08, 0.08, 0.09),
}
COLOUR_NAMES = tuple(COLOURS)
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")  # of the first object to the second
DEGRADATIONS = ("blurry", "noisy", "oversaturated", "low quality")
PRAISE = ("sharp", "high quality")
CLEAN = len(DEGRADATIONS)  # the quality index of an undamaged drawing
IMAGE_SIZE = 64


@dataclass(frozen=True)
class Scenes:
    """A batch of n scenes; the second object of a single one is ignored.

    Attributes:
        count: Objects in the scene, 1 or 2, int64 [n].
        shape, colour, size: Indices into SHAPES, COLOUR_NAMES, SIZES, int64 [n, 2].
        background: Index into COLOUR_NAMES, int64 [n].
        relation: Index into RELATIONS, int64 [n]; meaningless where count is 1.
        quality: Index into DEGRADATIONS, or CLEAN, int64 [n].
        centre: (x, y) in px from the top left corner, float32 [n, 2, 2].
        radius: In px, float32 [n, 2].
    """

    count: Tensor
    shape: Tensor
    colour: Tensor
    size: Tensor
    background: Tensor
    relation: Tensor
    quality: Tensor
    centre: Tensor
    radius: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, rows: Tensor | slice) -> "Scenes":
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def cat(parts: Sequence["Scenes"]) -> "Scenes":
        """The scenes of all parts, one after the other."""
        return Scenes(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Scenes)))


def held_out(shape: Tensor, colour: Tensor, background: Tensor) -> Tensor:
    """Whether training leaves a combination out: (shape + 2 colour + 3 background) mod 5 = 0."""
    return (shape + 2 * colour + 3 * background) % 5 == 0


def draw_scenes(
    n: int, rng: Generator, *, pairs: float = 0.35, degraded: float = 0.2, unseen: bool = False
) -> Scenes:
    """Draw n scenes.

    Args:
        n: How many, at least 1.
        rng: The source of every number.
        pairs: Share of scenes with two objects, in [0, 1].
        degraded: Share of scenes with a damaged picture, in [0, 1].
        unseen: True draws only objects that training never saw on that background, False only
            those that it did.

    Raises:
        ValueError: If n is below 1.
    """
    if n < 1:
        raise ValueError(f"draw_scenes was asked for {n} scenes, expected at least 1.")
    parts: list[Scenes] = []
    found = 0
    while found < n:
        scenes = _propose(4 * n, rng, pairs, degraded)
        scenes = scenes[_allowed(scenes, unseen)]
        parts.append(scenes)
        found += len(scenes)
    return Scenes.cat(parts)[slice(0, n)]


def _propose(n: int, rng: Generator, pairs: float, degraded: float) -> Scenes:
    def below(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=rng)

    def unit(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng)

    two = unit(n) < pairs
    size = below(2, n, 2)
    relation = below(4, n)
    quality = torch.where(unit(n) < degraded, below(CLEAN, n), CLEAN)
    alone = torch.stack([8.5 + 3.0 * unit(n, 2), 15.0 + 6.0 * unit(n, 2)], -1)
    paired = torch.stack([7.0 + 1.5 * unit(n, 2), 10.5 + 2.0 * unit(n, 2)], -1)
    radius = torch.where(two[:, None, None], paired, alone).gather(2, size[..., None])[..., 0]

    # A lone object lies anywhere; of two, the first is before the second along one axis.
    margin = radius + 2.0
    anywhere = margin[..., None] + unit(n, 2, 2) * (IMAGE_SIZE - 2 * margin)[..., None]
    vertical = relation >= 2
    first_is_low = relation % 2 == 0  # left of, above: the smaller coordinate
    low = torch.where(first_is_low[:, None], margin, margin.flip(1))
    slack = IMAGE_SIZE - 2 * low.sum(1)
    cuts = unit(n, 2).sort(1).values * slack[:, None]
    places = torch.stack([low[:, 0] + cuts[:, 0], 2 * low[:, 0] + low[:, 1] + cuts[:, 1]], 1)
    places = torch.where(first_is_low[:, None], places, places.flip(1))
    drift = IMAGE_SIZE / 2 + (unit(n, 2) - 0.5) * 12
    beside = torch.stack([places, drift], -1)
    beside = torch.where(vertical[:, None, None], beside.flip(-1), beside)
    centre = torch.where(two[:, None, None], beside, anywhere)
    count = torch.where(two, 2, 1)
    return Scenes(
        count,
        below(len(SHAPES), n, 2),
        below(len(COLOURS), n, 2),
        size,
        below(len(COLOURS), n),
        relation,
        quality,
        centre,
        radius,
    )


def _allowed(scenes: Scenes, unseen: bool) -> Tensor:
    background = scenes.background[:, None]
    left_out = held_out(scenes.shape, scenes.colour, background) == unseen
    each = (scenes.colour != background) & left_out
    twins = (scenes.shape[:, 0] == scenes.shape[:, 1]) & (
        scenes.colour[:, 0] == scenes.colour[:, 1]
    )
    return each[:, 0] & ((scenes.count == 1) | (each[:, 1] & ~twins))


@cache
def outline(name: str) -> Tensor:
    """The corners of a shape inscribed in the unit disc, y downwards, [corners, 2]."""
    turn = torch.arange(128, dtype=torch.float64) * (2 * math.pi / 128)
    if name == "square":
        points = [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    elif name == "diamond":
        points = [(0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0)]
    elif name == "triangle":
        points = [(0.0, -0.95), (0.95, 0.75), (-0.95, 0.75)]
    elif name == "star":
        angles = [math.pi * (k / 5 - 0.5) for k in range(10)]
        lengths = [1.0 if k % 2 == 0 else 0.42 for k in range(10)]
        points = [(r * math.cos(a), r * math.sin(a)) for r, a in zip(lengths, angles, strict=True)]
    elif name in ("cross", "x"):
        w, h = 0.3, 0.95
        points = [(-w, -h), (w, -h), (w, -w), (h, -w), (h, w), (w, w)]
        points += [(w, h), (-w, h), (-w, w), (-h, w), (-h, -w), (-w, -w)]
        if name == "x":
            half = math.sqrt(0.5)
            points = [(half * (u - v), half * (u + v)) for u, v in points]
    elif name == "heart":
        t = turn[::4]
        u = 16 * torch.sin(t) ** 3
        v = -(13 * torch.cos(t) - 5 * torch.cos(2 * t) - 2 * torch.cos(3 * t) - torch.cos(4 * t))
        return (torch.stack([u, v - 2.5], 1) / 16.5).float()
    else:
        raise ValueError(f"{name!r} has no outline of corners, expected one of the polygons.")
    return torch.tensor(points, dtype=torch.float32)


def signed_distance(name: str, points: Tensor) -> Tensor:
    """Distance to a shape of radius 1 around 0, negative inside.

    Args:
        name: One of SHAPES.
        points: [..., 2], y downwards.

    Returns:
        [...]: exact Euclidean distances.
    """
    if name == "circle":
        return points.norm(dim=-1) - 0.92
    if name == "ring":
        return (points.norm(dim=-1) - 0.72).abs() - 0.22
    corners = outline(name)
    edges = corners.roll(-1, 0) - corners
    squared = torch.full(points.shape[:-1], math.inf)
    inside = torch.zeros(points.shape[:-1], dtype=torch.bool)
    for (cx, cy), (ex, ey) in zip(corners.tolist(), edges.tolist(), strict=True):
        px, py = points[..., 0] - cx, points[..., 1] - cy
        along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        squared = torch.minimum(squared, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        spans = (py >= 0) != (py >= ey)
        inside ^= spans & ((px * ey - py * ex) * math.copysign(1.0, ey) < 0)
    return torch.where(inside, -squared.sqrt(), squared.sqrt())


def render(scenes: Scenes, rng: Generator) -> Tensor:
    """Draw the scenes.

    Args:
        scenes: What to draw.
        rng: Shades (up to 0.02 a channel), grain and the strength of the damage.

    Returns:
        Images in [0, 1], float32 [n, 3, 64, 64].
    """
    n = len(scenes)
    axis = torch.arange(IMAGE_SIZE) + 0.5
    pixels = torch.stack([axis.expand(IMAGE_SIZE, -1), axis[:, None].expand(-1, IMAGE_SIZE)], -1)
    palette = torch.tensor(tuple(COLOURS.values()))
    shades = (torch.rand(n, 3, 3, generator=rng) - 0.5) * 0.04
    paint = (palette[scenes.colour] + shades[:, :2])[..., None, None]
    image = (palette[scenes.background] + shades[:, 2])[..., None, None]
    image = image.expand(-1, -1, IMAGE_SIZE, IMAGE_SIZE)
    for k in range(2):
        cover = torch.zeros(n, 1, IMAGE_SIZE, IMAGE_SIZE)
        for index, name in enumerate(SHAPES):
            rows = ((scenes.shape[:, k] == index) & (scenes.count > k)).nonzero()[:, 0]
            if len(rows):
                radius = scenes.radius[rows, k, None, None]
                local = (pixels - scenes.centre[rows, k, None, None]) / radius[..., None]
                distance = radius * signed_distance(name, local)
                cover[rows, 0] = (0.5 - distance).clamp(0, 1)
        image = image * (1 - cover) + paint[:, k] * cover
    return _degrade(image, scenes.quality, rng).clamp(0, 1)


def _degrade(image: Tensor, quality: Tensor, rng: Generator) -> Tensor:
    strength = torch.rand(len(image), 1, 1, 1, generator=rng)
    grain = torch.randn(len(image), 1, 16, 16, generator=rng)
    tint = torch.randn(len(image), 3, 16, 16, generator=rng)
    grain = F.interpolate(grain + 0.5 * tint, size=image.shape[-2:], mode="bilinear")
    blurred = _blur(image, 2.5)
    coarse = F.interpolate(
        F.adaptive_avg_pool2d(image, 14), size=image.shape[-2:], mode="bilinear"
    )
    grey = image.mean(1, keepdim=True)
    saturated = 0.5 + 1.3 * (grey + (1.5 + 0.5 * strength) * (image - grey) - 0.5)
    damaged = {
        "blurry": torch.lerp(image, blurred, 0.8 + 0.2 * strength),
        "noisy": image + (0.1 + 0.06 * strength) * grain,
        "oversaturated": saturated,
        "low quality": coarse + (0.03 + 0.03 * strength) * grain,
    }
    for index, name in enumerate(DEGRADATIONS):
        image = torch.where((quality == index)[:, None, None, None], damaged[name], image)
    return image


def _blur(image: Tensor, sigma: float) -> Tensor:
    offsets = torch.arange(-8, 9, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, 1, -1)
    padded = F.pad(image, (8, 8, 8, 8), mode="replicate")
    rows = F.conv2d(padded, kernel, groups=image.shape[1])
    return F.conv2d(rows, kernel.transpose(2, 3), groups=image.shape[1])


def caption(scenes: Scenes, i: int, rng: Generator | None = None, *, sized: bool = False) -> str:
    """Describe scene i; with rng, parts are left out at random and quality words come and go.

    Without rng every part is named, sizes if ``sized``: "a small red heart on a white background".
    """
    draw = torch.rand(8, generator=rng).tolist() if rng is not None else None

    def chosen(slot: int, share: float) -> bool:
        return draw is None or draw[slot] < share

    def thing(k: int) -> str:
        words = [SHAPES[int(scenes.shape[i, k])]]
        if chosen(2 * k, 0.9):
            words.insert(0, COLOUR_NAMES[int(scenes.colour[i, k])])
        if sized if draw is None else draw[2 * k + 1] < 0.35:
            words.insert(0, SIZES[int(scenes.size[i, k])])
        return _with_article(words)

    text = thing(0)
    if scenes.count[i] == 2:
        text = f"{text} {RELATIONS[int(scenes.relation[i])]} {thing(1)}"
    if chosen(4, 0.75):
        text += f" on {_with_article([COLOUR_NAMES[int(scenes.background[i])]])} background"
    if draw is None:
        return text
    return _with_quality(text, int(scenes.quality[i]), draw[5:])


def _with_article(words: list[str]) -> str:
    return " ".join(["an" if words[0] == "orange" else "a", *words])


def _with_quality(text: str, quality: int, draw: list[float]) -> str:
    if quality == CLEAN:
        words = PRAISE[int(draw[0] * len(PRAISE))] if draw[1] < 0.2 else ""
    else:
        words = DEGRADATIONS[quality] if draw[1] < 0.9 else ""
    if not words:
        return text
    if draw[2] < 0.15:
        return words
    return f"{words}, {text}" if draw[2] < 0.45 else f"{text}, {words}"


def unseen_captions(n: int, *, pairs: bool = False, seed: int = 0) -> tuple[list[str], Scenes]:
    """Distinct captions of combinations that training never saw, with what they ask for.

    Args:
        n: How many captions, at most about 290 of one object.
        pairs: Two objects in a relation instead of one; both are unseen on that background.
        seed: Names the choice.

    Raises:
        ValueError: If there are not n distinct captions.
    """
    rng = torch.Generator().manual_seed(seed)
    pool = draw_scenes(64 * n, rng, pairs=1.0 if pairs else 0.0, degraded=0.0, unseen=True)
    found: dict[str, int] = {}
    for i in range(len(pool)):
        text = caption(pool, i, sized=not pairs and i % 3 > 0)
        found.setdefault(text, i)
        if len(found) == n:
            return list(found), pool[torch.tensor(list(found.values()))]
    raise ValueError(
        f"{n} captions were asked for, there are {len(found)} of combinations unseen."
    )


def vocabulary() -> tuple[str, ...]:
    """Every word of the grammar, in a fixed order; the comma is a word."""
    phrases = (*SHAPES, *COLOUR_NAMES, *SIZES, *RELATIONS, *DEGRADATIONS, *PRAISE)
    words = [
        "a",
        "an",
        "on",
        "background",
        ",",
        *(w for phrase in phrases for w in phrase.split()),
    ]
    return tuple(dict.fromkeys(words))
