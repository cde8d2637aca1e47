"""From a user's image to a model's, and from two images to a picture of what changed.

A model takes images of its own size. An image of another is refused, or scaled and then cropped or
padded if that was asked for; what was done is said. Two images are compared by

    m(p) = gain * mean_c |a_c(p) - b_c(p)|,

drawn as heat, with a gain that is a power of two and is reported.
"""

import sys

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sdstoolkit._typing import Image
from sdstoolkit.images import read_image, strip
from sdstoolkit.prior import Prior

__all__ = [
    "changes",
    "compare",
    "difference",
    "fit",
    "magnify",
    "open_image",
    "open_mask",
    "psnr",
]


def open_image(path: str, prior: Prior, *, how: str, convert: bool) -> Image:
    """An image for a model, brought to its size as the user asked for; what was done is said.

    Args:
        path: The file.
        prior: The model, whose size and channels count.
        how: As `fit`.
        convert: As `images.read_image`.

    Returns:
        Shape [1, c, h, w] on the model's device, values in [0, 1].

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As `fit` and `read_image`.
    """
    mode = "L" if prior.codec.image_channels == 1 else "RGB"
    image, (H, W) = read_image(path, mode=mode, convert=convert), prior.size
    h, w = image.shape[-2:]
    try:
        fitted = fit(image, (H, W), how)
    except ValueError as error:
        raise ValueError(f"{path!r}: {error} (--fit)") from None
    if (h, w) != (H, W):
        print(f"{path}: {w} x {h} pixels became {W} x {H} ({how})", file=sys.stderr)
    return fitted.to(prior.device)


def open_mask(path: str, image: str, prior: Prior, *, how: str) -> Image | None:
    """The mask of an image, white where to edit, brought to the model's size as the image is.

    Args:
        path: The file; "" for no mask.
        image: The file that it is for.
        prior: The model.
        how: As `fit`.

    Returns:
        Shape [1, 1, h, w] on the model's device, values in [0, 1]; or None.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has another size than the image, or is black.
    """
    if not path:
        return None
    mask, like = (read_image(p, mode="L", convert=True) for p in (path, image))
    (h, w), (H, W) = mask.shape[-2:], like.shape[-2:]
    if (h, w) != (H, W):
        raise ValueError(
            f"the mask {path!r} has {w} x {h} pixels, expected the image's {W} x {H}: draw it on "
            "the image"
        )
    mask = fit(mask, prior.size, how)
    if not bool(mask.any()):
        raise ValueError(f"the mask {path!r} is black: there is nothing to edit")
    return mask.to(prior.device)


def fit(
    image: Float[Tensor, "n c h w"], size: tuple[int, int], how: str
) -> Float[Tensor, "n c H W"]:
    """Bring images to a size, in one of the ways that there are, and in no other.

    Args:
        image: Shape [n, c, h, w], values in [0, 1].
        size: Height and width in pixels.
        how: ``"exact"`` only lets the right size pass; ``"crop"`` scales until the size is
            covered and cuts off what is too much on two sides; ``"pad"`` scales until all of it
            fits and repeats the border where something is missing.

    Returns:
        Shape [n, c, *size].

    Raises:
        ValueError: Another size and ``"exact"``, or no such way.
    """
    h, w = image.shape[-2:]
    H, W = size
    if how not in ("exact", "crop", "pad"):
        raise ValueError(f"fit is {how!r}, expected exact, crop or pad")
    if (h, w) == size:
        return image
    if how == "exact":
        raise ValueError(
            f"the image has {w} x {h} pixels, expected {W} x {H}: give one of that size, or ask "
            "for crop or pad"
        )
    scale = (max if how == "crop" else min)(H / h, W / w)
    scaled = max(1, round(h * scale)), max(1, round(w * scale))
    image = F.interpolate(image, scaled, mode="bilinear", antialias=True, align_corners=False)
    top, left = (H - scaled[0]) // 2, (W - scaled[1]) // 2
    bottom, right = H - scaled[0] - top, W - scaled[1] - left
    return F.pad(image, (left, right, top, bottom), mode="replicate").clamp(0, 1)


def difference(
    a: Float[Tensor, "1 c h w"], b: Float[Tensor, "1 c h w"]
) -> tuple[Float[Tensor, "1 3 h w"], int]:
    """Where two images differ, from black over red and yellow to white.

    Args:
        a: Shape [1, c, h, w], values in [0, 1].
        b: The same.

    Returns:
        The map, shape [1, 3, h, w], and by how much differences were multiplied to be seen: the
        power of two, at most 256, that brings the largest one nearest to 1 from below.
    """
    size = (a.clamp(0, 1) - b.clamp(0, 1)).abs().mean(1, keepdim=True)
    gain = 1
    while gain < 256 and float(size.max()) * gain * 2 <= 1:
        gain *= 2
    heat = 3 * gain * size
    return torch.cat([heat, heat - 1, heat - 2], 1).clamp(0, 1).float(), gain


def magnify(image: Float[Tensor, "n c h w"], least: int = 128) -> Float[Tensor, "n c H W"]:
    """Repeat pixels, by a whole number, until the shorter side has so many.

    Args:
        image: Shape [n, c, h, w].
        least: Pixels of the shorter side, at least 1; a larger image stays as it is.
    """
    factor = -(-least // min(image.shape[-2:]))
    return image.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def psnr(
    a: Float[Tensor, "n c h w"],
    b: Float[Tensor, "n c h w"],
    where: Tensor | None = None,
) -> Float[Tensor, "n"]:
    """Peak signal-to-noise ratio in decibels, -10 log10 of the mean squared difference.

    Args:
        a: Shape [n, c, h, w], values in [0, 1].
        b: The same.
        where: True where to look, shape [n or 1, 1, h, w]; None for everywhere. The mean is over
            those pixels, not over all.

    Returns:
        Shape [n]; infinite where nothing differs.
    """
    squares = (a - b).square().mean(1, keepdim=True)
    where = torch.ones_like(squares) if where is None else where.expand_as(squares).to(squares)
    return -10 * ((squares * where).flatten(1).sum(1) / where.flatten(1).sum(1)).log10()


def compare(
    image: Float[Tensor, "1 c h w"],
    alone: Float[Tensor, "1 c h w"],
    made: Float[Tensor, "1 c h w"],
) -> tuple[Float[Tensor, "1 3 H W"], int]:
    """An image, what the codec alone makes of it, what was made, and where the last two differ.

    Args:
        image: Shape [1, c, h, w], values in [0, 1].
        alone: The same.
        made: The same.

    Returns:
        The four side by side, small ones magnified, and the gain of the last: see `difference`.
    """
    heat, gain = difference(made, alone)
    row = [v.float().cpu().expand(1, 3, -1, -1) for v in (image, alone, made, heat)]
    return strip([magnify(v) for v in row]), gain


def changes(
    image: Float[Tensor, "1 c h w"],
    alone: Float[Tensor, "1 c h w"],
    made: Float[Tensor, "1 c h w"],
    inside: Float[Tensor, "1 1 h w"] | None,
) -> tuple[Float[Tensor, "1 3 H W"], dict[str, float | bool | None], str]:
    """How much an edit has changed, in decibels; None for no difference at all.

    Args:
        image: What was edited, shape [1, c, h, w], values in [0, 1].
        alone: The codec's reconstruction of it.
        made: The edit.
        inside: The mask, or None.

    Returns:
        The picture of `compare`; the numbers; and the same as text, a line a number. They are
        ``floor_db``, the codec against the image; ``image_db`` and ``codec_db``, the edit against
        the image and against the codec; with a mask the same ``outside_`` of it, and whether the
        outside is the codec's or the image's to the bit; and the gain of the picture.
    """
    picture, gain = compare(image, alone, made)
    made, alone = made.to(image), alone.to(image)
    found: dict[str, float | bool | None] = {
        "floor_db": _finite(psnr(alone, image)),
        "image_db": _finite(psnr(made, image)),
        "codec_db": _finite(psnr(made, alone)),
        "difference_gain": gain,
    }
    if inside is not None:
        outside = inside == 0
        found["outside_share"] = float(outside.float().mean())
        found["outside_image_db"] = _finite(psnr(made, image, outside))
        found["outside_codec_db"] = _finite(psnr(made, alone, outside))
        there = outside.expand_as(image)
        found["outside_is_codec"] = torch.equal(made[there], alone[there])
        found["outside_is_image"] = torch.equal(made[there], image[there])
    return picture, found, "".join(f"{name:<18} {value}\n" for name, value in found.items())


def _finite(decibels: Tensor) -> float | None:
    return round(float(decibels), 3) if bool(decibels.isfinite().all()) else None
