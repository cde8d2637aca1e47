"""Where to edit: one outside of the mask is kept to the bit.

result = mask edited + (1 - mask) kept,   and exactly kept where mask = 0
"""

import torch
from torch import Tensor

from sdstoolkit._typing import Image
from sdstoolkit.codec import Codec

__all__ = ["blend", "check", "composite"]


def check(mask: Tensor, like: Tensor) -> Tensor:
    """The mask for a batch of states or images, [n or 1, 1, *size].

    Args:
        mask: shares in [0, 1], 1 where to edit, [n or 1, 1, *size].
        like: what it is for, [n, c, *size].

    Raises:
        ValueError: another size, values out of range, or a mask that is zero everywhere in a row.
    """
    expected = [1, *like.shape[2:]]
    if list(mask.shape[1:]) != expected or mask.shape[0] not in (1, len(like)):
        sizes = ", ".join(map(str, expected))
        raise ValueError(
            f"The mask has shape {list(mask.shape)}; expected [{len(like)} or 1, {sizes}], resize "
            "it first."
        )
    mask = mask.to(like)
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError(f"The mask reaches {mask.min():.3g} to {mask.max():.3g}, not [0, 1].")
    empty = (mask == 0).flatten(1).all(1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"The mask is black in rows {empty}: there is nothing to edit.")
    return mask


def blend(edited: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
    """The edit inside of a checked mask, [n, c, *size]; what is kept is so to the bit."""
    mixed = torch.lerp(kept, edited, mask.expand_as(kept))
    return torch.where(mask == 0, kept, mixed)


def composite(
    codec: Codec, x_0: Tensor, mask: Tensor, *, background: Image | None = None, kept: Tensor
) -> Image:
    """The decoded edit inside of a mask of pixels, and outside of it the background to the bit.

    Decoding is not local, so that a mask of latents alone does not keep a pixel.

    Args:
        codec: of the model's space.
        x_0: the edit, [n, c, h, w].
        mask: of pixels, shares in [0, 1], [n or 1, 1, H, W].
        background: what to keep, [n, C, H, W]; None for the codec's reconstruction of `kept`.
        kept: x_0 before the edit, [n, c, h, w].

    Raises:
        ValueError: see `check`.
    """
    edited = codec.decode(x_0)
    outside = (codec.decode(kept) if background is None else background).to(edited)
    return blend(edited, outside, check(mask, edited))
