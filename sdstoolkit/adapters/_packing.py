"""Latents as tokens of 2 x 2 patches, for transformers that take them packed.

[n, c, 2 h, 2 w]  <->  [n, h w, 4 c]
"""

from einops import rearrange
from torch import Tensor

PATCH = 2


def pack(x: Tensor) -> Tensor:
    """Tokens [n, h w, 4 c] of x [n, c, 2 h, 2 w], row by row; a token's channels come first."""
    return rearrange(x, "n c (h p) (w q) -> n (h w) (c p q)", p=PATCH, q=PATCH)


def unpack(tokens: Tensor, like: Tensor) -> Tensor:
    """The inverse, to the size of `like` [n, c, 2 h, 2 w]."""
    h, w = (size // PATCH for size in like.shape[-2:])
    return rearrange(tokens, "n (h w) (c p q) -> n c (h p) (w q)", h=h, w=w, p=PATCH, q=PATCH)
