"""Where to edit: one outside of the mask is kept to the bit.

    result = mask edited + (1 - mask) kept,   and exactly kept where mask = 0

During the walk the model is told what is known outside of the mask (`Known`), so that what comes
to be inside goes with it; afterwards the outside is put back, which rounding cannot touch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sdstoolkit._typing import Image
from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["Known", "blend", "check", "composite", "confine", "shrink"]


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


def shrink(mask: Tensor, multiple: int) -> Tensor:
    """A mask of pixels as one of latents: the largest share in each cell, [n, 1, h, w].

    Args:
        mask: of pixels, shares in [0, 1], [n, 1, H, W], H and W multiples of `multiple`.
        multiple: pixels a cell, the codec's.
    """
    return F.max_pool2d(mask, multiple)


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


class Known(ScoreModel):
    """A model that is told what lies outside of a mask, so that the inside comes to fit it.

        x_0_hat' = m x_0_hat + (1 - m) x_0,   eps_hat' = m eps_hat + (1 - m) eps

    The flow of the outside is then the straight line from its noise to what is known, in every
    parameterisation and for every solver. What is known travels in the condition, a row a row.

    Network evaluations: the model's.

    In the spirit of Avrahami, Fried and Lischinski, Blended Latent Diffusion, 2023,
    https://arxiv.org/abs/2206.02779, who replace the noisy state and not the posterior mean.

    Args:
        model: the model, guided or not.
    """

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        self.model = model
        self.schedule, self.parameterization = model.schedule, model.parameterization
        self.shape = model.shape

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The network's output inside, and outside the output that means (x_0, eps)."""
        given = dict(condition or {})
        x_0, eps, mask = (given.pop(name) for name in _KNOWN)
        (output,) = self.model.outputs(x_t, level, [Condition(given) if given else None])
        a, b = self.parameterization.coefficients(level)
        return torch.lerp(a * x_0 + b * eps, output, mask.expand_as(output))

    def describe(self) -> dict[str, object]:
        """The model's description, and that it is masked."""
        return self.model.describe() | {"masked": True}

    @property
    def dtype(self) -> torch.dtype | None:
        """None: the state reaches the model uncast."""
        return None


_KNOWN = ("mask/x_0", "mask/eps", "mask/inside")


def confine(
    model: ScoreModel,
    condition: Condition | None,
    x_t: Tensor,
    t: Tensor,
    x_0: Tensor,
    mask: Tensor | None,
) -> tuple[ScoreModel, Condition | None]:
    """A model and its condition for a walk from x_t that ends in x_0 outside of the mask.

    Args:
        model: the model of the walk.
        condition: its condition, of 1 or n rows.
        x_t: where the walk starts, [n, c, *size].
        t: when, a number.
        x_0: what is known, [n, c, *size].
        mask: a checked mask; None for the model and the condition as they are.
    """
    if mask is None:
        return model, condition
    level = model.schedule.level(t, x_t)
    eps = (x_t - level.alpha * x_0) / level.sigma
    rows = dict(condition.expand(len(x_t)) if condition else {})
    known = (x_0, eps, mask.expand(len(x_t), *mask.shape[1:]))
    return Known(model), Condition(rows | dict(zip(_KNOWN, known, strict=True)))
