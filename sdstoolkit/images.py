"""Image files and image tensors.

An image tensor holds float values in [0, 1], shape [n, c, h, w], c = 1 (grey) or 3 (sRGB).
A file holds integers k in 0..255, and the two meet at

    read:  x = k / 255            write:  k = round(255 clip(x, 0, 1))

so reading what was written returns x to within 1/510, and writing what was read returns the
file's pixels exactly. Nothing else is converted unless it is asked for: no resizing, no change of
colour space, no dropped transparency, no silently merged frames. What an RGB or a grey tensor
cannot represent is refused by its name. Every file is written beside its target and renamed into
place, so that a reader, or a later run, never meets half a file.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sdstoolkit._files import write_atomically

__all__ = ["grid", "read_image", "strip", "write_animation", "write_image"]

_CHANNELS = {"L": 1, "RGB": 3}
_REPLACEABLE = {"P": "RGB", "1": "L"}  # other ways to store the same pixels, without any loss
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
}
_ANIMATIONS = {".gif": "GIF", ".png": "PNG", ".webp": "WEBP"}


def read_image(
    path: str | os.PathLike[str], *, mode: str = "RGB", convert: bool = False
) -> Float[Tensor, "1 c h w"]:
    r"""Read one image file.

    $$ x = k / 255, \qquad k \in \{0, \dots, 255\} $$

    The orientation a camera noted in the file is applied, as every viewer does; a palette or a
    bilevel file is read as the colours it stands for. Nothing else is converted.

    Args:
        path: A file that pillow can read (png, jpeg, webp, ...).
        mode: ``"RGB"`` for three channels or ``"L"`` for one.
        convert: Read also what ``mode`` cannot represent: transparency is laid on white, 16 bits
            are cut to 8, and other colours become those of ``mode`` as pillow converts them.

    Returns:
        float32, shape [1, c, h, w], values in [0, 1].

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not an image, it is broken, or it holds what ``mode`` cannot represent
            (transparency, more than 8 bits a channel, other colours; several frames or 32 bits a
            channel also with ``convert``).
    """
    from PIL import Image, ImageOps

    if mode not in _CHANNELS:
        raise ValueError(f"mode {mode!r} is not known, expected 'RGB' or 'L'")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no image file {str(path)!r}")
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is a folder, expected an image file")
    try:
        with Image.open(path) as opened:
            _refuse_what_is_lost(opened, path, mode, convert)
            opened.load()
            picture = ImageOps.exif_transpose(opened)
            picture = _flat(picture, mode) if convert else picture.convert(mode)
            width, height = picture.size
            data = bytearray(picture.tobytes())
    except Image.UnidentifiedImageError:
        raise ValueError(f"{str(path)!r} is not an image that can be read") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image {str(path)!r} could not be read: {error}") from error
    values = torch.frombuffer(data, dtype=torch.uint8).reshape(1, height, width, _CHANNELS[mode])
    return values.permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255


def _flat(picture: Any, mode: str) -> Any:
    """The picture in a mode, whatever that loses."""
    from PIL import Image

    if picture.mode.startswith("I"):  # 16 bits, which pillow would clip and not scale
        import numpy

        picture = Image.fromarray((numpy.asarray(picture) // 257).astype("uint8"))
    if "transparency" in picture.info or picture.mode in _TRANSPARENT:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert(mode)


def _refuse_what_is_lost(picture: Any, path: Path, mode: str, convert: bool) -> None:
    """Say by name what a tensor of the mode asked for cannot hold."""
    kept = picture.mode
    sixteen = any("16" in str(tile[3]) for tile in picture.tile)
    if getattr(picture, "n_frames", 1) > 1:
        lost = f"holds {picture.n_frames} frames, expected one: save the frame you want"
    elif convert and not sixteen and kept in ("I", "F"):
        lost = f"holds 32 bits a channel (mode {kept}), expected 8 or 16: convert it"
    elif convert:
        return
    elif sixteen:
        lost = "holds 16 bits a channel, expected 8: convert it to 8 bits"
    elif "transparency" in picture.info or kept in _TRANSPARENT:
        lost = f"holds transparency (mode {kept}), expected {mode}: flatten it on a background"
    elif _REPLACEABLE.get(kept, kept) != mode:
        advice = f", or read it with mode={kept!r}" if kept in _CHANNELS else ""
        lost = f"is of mode {kept}, expected {mode}: convert it{advice}"
    else:
        return
    raise ValueError(f"the image {str(path)!r} {lost}")


def write_image(path: str | os.PathLike[str], image: Float[Tensor, "..."]) -> Path:
    r"""Write one image file, complete or not at all.

    $$ k = \mathrm{round}(255\, \mathrm{clip}(x, 0, 1)) $$

    Args:
        path: Where to; the suffix decides on the format: ``.png`` without loss, ``.jpg`` with.
        image: Shape [1, c, h, w] or [c, h, w], c in {1, 3}; values outside [0, 1] are clipped.

    Returns:
        The path.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: A shape that is not one image, a value that is not finite, an unknown suffix.
    """
    path = Path(path)
    name, options = _format(path, _FORMATS)
    buffer = io.BytesIO()
    _picture(image).save(buffer, format=name, **options)
    return write_atomically(path, buffer.getvalue())


def write_animation(
    path: str | os.PathLike[str], frames: Sequence[Float[Tensor, "..."]], *, fps: float = 10.0
) -> Path:
    """Write an endless animation.

    Args:
        path: Where to; ``.gif`` (256 colours), ``.webp`` or animated ``.png`` (without loss).
        frames: Images of one shape, each [1, c, h, w] or [c, h, w], values in [0, 1].
        fps: Frames a second, above 0; a gif counts time in hundredths of a second.

    Returns:
        The path.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: No frames, frames of several shapes, a rate that is not positive.
    """
    path = Path(path)
    name, options = _format(path, {k: (v, {}) for k, v in _ANIMATIONS.items()})
    if not frames:
        raise ValueError("there are no frames to animate, expected one or more")
    if not 0 < fps <= 1000:
        raise ValueError(f"fps is {fps}, expected above 0 and at most 1000 frames a second")
    pictures = [_picture(frame) for frame in frames]
    if len({(picture.size, picture.mode) for picture in pictures}) > 1:
        raise ValueError("the frames differ in shape, expected one shape for all of them")
    if name == "WEBP":
        options = {"lossless": True}
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        format=name,
        save_all=True,
        append_images=pictures[1:],
        duration=1000 / fps,
        loop=0,
        **options,
    )
    return write_atomically(path, buffer.getvalue())


def grid(
    images: Float[Tensor, "n c h w"], *, columns: int | None = None, pad: int = 2
) -> Float[Tensor, "1 c H W"]:
    """Tile a batch into one image, row by row, on white.

    Args:
        images: Shape [n, c, h, w], n >= 1.
        columns: Images a row, >= 1; by default the smallest square that holds n.
        pad: White pixels between images and around them, >= 0.

    Returns:
        Shape [1, c, rows (h + pad) + pad, columns (w + pad) + pad].

    Raises:
        ValueError: No images, no columns or a negative pad.
    """
    n, c, h, w = images.shape
    if n < 1:
        raise ValueError("there are no images to tile, expected one or more")
    if columns is None:
        columns = next(k for k in range(1, n + 1) if k * k >= n)
    if columns < 1:
        raise ValueError(f"columns is {columns}, expected 1 or more")
    if pad < 0:
        raise ValueError(f"pad is {pad}, expected 0 or more pixels")
    rows = -(-n // columns)
    out = images.new_ones(1, c, rows * (h + pad) + pad, columns * (w + pad) + pad)
    for index in range(n):
        top = pad + index // columns * (h + pad)
        left = pad + index % columns * (w + pad)
        out[0, :, top : top + h, left : left + w] = images[index]
    return out


def strip(frames: Sequence[Float[Tensor, "n c h w"]], *, pad: int = 2) -> Float[Tensor, "1 c H W"]:
    """Lay out how images came to be: one row an image, time from left to right.

    Args:
        frames: One batch [n, c, h, w] a moment, at least one, of one shape.
        pad: White pixels between images and around them, >= 0.

    Returns:
        Shape [1, c, n (h + pad) + pad, len(frames) (w + pad) + pad].

    Raises:
        ValueError: No frames, or frames of several shapes.
    """
    if not frames:
        raise ValueError("there are no frames to lay out, expected one or more")
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError("the frames differ in shape, expected one shape for all of them")
    rows = torch.stack(tuple(frames), dim=1).flatten(0, 1)
    return grid(rows, columns=len(frames), pad=pad)


def _format(
    path: Path, known: dict[str, tuple[str, dict[str, Any]]]
) -> tuple[str, dict[str, Any]]:
    if path.suffix.lower() not in known:
        raise ValueError(f"{path.name!r} has no known suffix, expected one of {', '.join(known)}")
    return known[path.suffix.lower()]


def _picture(image: Tensor) -> Any:
    """One image tensor as a pillow image, rounded to 1/255."""
    from PIL import Image

    shape = tuple(image.shape)
    if image.ndim == 4 and shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise ValueError(
            f"the image has shape {shape}, expected one image [c, h, w] or [1, c, h, w] with "
            "1 or 3 channels; lay a batch out with grid()"
        )
    if not bool(torch.isfinite(image).all()):
        raise ValueError("the image holds values that are not finite, expected values in [0, 1]")
    values = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    pixels = values.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
