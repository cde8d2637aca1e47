"""What users send is checked here; what goes wrong is one sentence, without the server's paths.

Three doors: the size of a request, before it is read; the fields of a form, which gradio reads
(`guard` turns what it cannot read into a sentence); and files, by size, kind and number of pixels,
before anything decodes them (`read_upload`).
"""

import functools
import inspect
import logging
import math
import re
import warnings
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image as Pillow
from torch import Tensor

from sdstoolkit.images import read_image

__all__ = ["MOST_BYTES", "LimitBody", "guard", "limit_decoders", "number", "read_upload", "spoken"]

MOST_BYTES = 8 * 2**20  # of an upload
MOST_PIXELS = 4096 * 4096  # of an image, decoded
KINDS = ("PNG", "JPEG", "WEBP")
MOST_CHARACTERS = 1000  # of a prompt

_PATH = re.compile(r"(?:/[\w.+@%=~ -]+)+/([\w.+@%=~ -]+)")
_log = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]


def spoken(function: Callable[..., Any]) -> Callable[..., Any]:
    """A handler, plain or a generator, whose errors reach the user as one sentence."""
    # Lambdas, so that a generator is seen to be one also where the tests check types.
    if inspect.isgeneratorfunction(inspect.unwrap(function)):
        return functools.wraps(function)(lambda *given: (yield from _stream(function, given)))
    return functools.wraps(function)(lambda *given: _answer(function, given))


def _answer(function: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    try:
        return function(*given)
    except Exception as error:
        raise _said(error) from None


def _stream(function: Callable[..., Any], given: tuple[Any, ...]) -> Iterator[Any]:
    try:
        yield from function(*given)
    except Exception as error:
        raise _said(error) from None


def _said(error: Exception) -> Exception:
    """What the user reads of an error; what nobody foresaw is for the log."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, (ValueError, OSError, torch.OutOfMemoryError)):
        text = _PATH.sub(r"\1", " ".join(str(error).split()))[:500]
        return gr.Error(text, title="That does not work", print_exception=False)
    _log.exception("a request failed", exc_info=error)
    return gr.Error(
        "This failed in a way nobody foresaw; what happened is in the server's log.",
        print_exception=False,
    )


def guard(blocks: gr.Blocks) -> None:
    """Let every field of a page say in one sentence what it cannot read."""
    for block in blocks.blocks.values():
        if isinstance(block, gr.components.Component) and not isinstance(block, gr.State):
            block.preprocess = _reading(block, block.preprocess)  # type: ignore[method-assign]


def _reading(block: Any, read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    name = getattr(block, "label", None) or type(block).__name__

    @functools.wraps(read)
    def preprocess(payload: Any) -> Any:
        try:
            return read(payload)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            reason = _PATH.sub(r"\1", " ".join(str(error).split()))[:200]
            raise gr.Error(
                f"The field {name!r} could not be read: {reason or type(error).__name__}",
                print_exception=False,
            ) from None

    return preprocess


def number(name: str, value: object, low: float, high: float, *, whole: bool = False) -> float:
    """A number of a form, in its range.

    Raises:
        ValueError: It is none, not finite, out of range, or not whole where it must be.
    """
    expected = f"expected {'a whole number' if whole else 'a number'} from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, {expected}")
    if not low <= value <= high or (whole and value != int(value)):
        raise ValueError(f"{name} is {value:g}, {expected}")
    return value


def text(name: str, value: object, *, needed: bool = False) -> str:
    """Words of a form.

    Raises:
        ValueError: They are none, too many, or empty where they are needed.
    """
    value = "" if value is None else value  # a box that nobody has touched
    if not isinstance(value, str):
        raise ValueError(f"{name} is {type(value).__name__}, expected text")
    if len(value) > MOST_CHARACTERS:
        raise ValueError(f"{name} has {len(value)} characters, expected {MOST_CHARACTERS} at most")
    if needed and not value.strip():
        raise ValueError(f"{name} is empty, expected a few words")
    return value.strip()


def read_upload(path: str | None, size: tuple[int, int], *, fit: bool) -> Tensor:
    """An uploaded image at the size that a model takes, [1, 3, h, w] in [0, 1].

    Args:
        path: Where gradio has put it; None if nothing was uploaded.
        size: Height and width.
        fit: Whether another size is cropped to the middle and resized; else it is refused.

    Raises:
        ValueError: Nothing there, too large, another kind of file, or another size.
    """
    if path is None:
        raise ValueError("there is no image, expected one to be uploaded first")
    file = Path(path)
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        raise ValueError(f"the file is not an image of at most {MOST_BYTES // 2**20} MB")
    try:
        with Pillow.open(file, formats=KINDS) as opened:  # the header only
            width, height = opened.size
    except Pillow.UnidentifiedImageError:
        raise ValueError(f"the file is no {', '.join(KINDS)} image") from None
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning):
        width = height = MOST_PIXELS
    if width * height > MOST_PIXELS:
        raise ValueError(f"the image has more than {MOST_PIXELS} pixels, expected fewer")
    image = read_image(file)
    if image.shape[-2:] == size:
        return image
    if not fit:
        h, w = size
        raise ValueError(
            f"the image is {width} x {height}, the model takes {w} x {h}: resize it, or tick "
            "'Crop and resize'"
        )
    return _fitted(image, size)


def _fitted(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of an image in the proportions of a size, resized to it with antialiasing."""
    (h, w), (height, width) = size, image.shape[-2:]
    scale = min(height / h, width / w)
    tall, wide = max(1, round(h * scale)), max(1, round(w * scale))
    top, left = (height - tall) // 2, (width - wide) // 2
    part = image[..., top : top + tall, left : left + wide]
    resized = torch.nn.functional.interpolate(part, size, mode="bilinear", antialias=True)
    return resized.clamp(0, 1)


def limit_decoders() -> None:
    """Make pillow refuse, in this process, images that unfold to more than the limit."""
    Pillow.MAX_IMAGE_PIXELS = MOST_PIXELS
    warnings.simplefilter("error", Pillow.DecompressionBombWarning)


class LimitBody:
    """Refuse a request whose body is larger than any that the page sends, while it comes in.

    Args:
        app: The ASGI application behind it.
        most: Bytes.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.most:
            return await _refuse(send)
        taken = 0

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message if taken <= self.most else {"type": "http.disconnect"}

        return await self.app(scope, counted, send)


async def _refuse(send: Any) -> None:
    body = b'{"detail": "The request is too large."}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
