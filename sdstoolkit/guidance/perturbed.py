"""Guidance by a network that was damaged on purpose: PAG and skipped layers.

    p = p_n + scale (p_c - p_n) + strength (p_c - p_damaged(c))

Perturbed-attention guidance makes chosen self-attention layers look at nothing but the pixel
itself, skip-layer guidance leaves out whole transformer blocks. The damaged network shares its
weights with the whole one, and neither needs a prompt.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided, finite
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel, twin

__all__ = ["Perturbed"]


class Perturbed(Guided):
    """Guidance away from the same network with damaged layers.

        p = p_n + scale (p_c - p_n) + strength (p_c - p_damaged(c))

    Without a null condition it is p_c + strength (p_c - p_damaged(c)): the scale of one method
    does not move the other's.

    Network evaluations a row: 2, and 1 more with guidance.

    Ahn et al. (PAG), 2024, https://arxiv.org/abs/2403.17377; Hyung et al. (skipped layers), 2024,
    https://arxiv.org/abs/2411.18664.

    Args:
        model: a model with transformer blocks of diffusers inside.
        null: the condition to guide away from; None for no guidance.
        strength: of the second term, any finite number; PAG has about 3.
        scale: of the guidance; 1 without `null`.
        layers: ends of the names of blocks to damage, such as ``"mid_block"``; all blocks whose
            name contains one of them. Empty for those of the middle, or else for all.
        skip: leave blocks out instead of their attention.

    Raises:
        ValueError: such numbers, or no such block.
    """

    def __init__(
        self,
        model: ScoreModel,
        null: Condition | None = None,
        *,
        strength: float = 3.0,
        scale: float = 1.0,
        layers: Sequence[str] = (),
        skip: bool = False,
    ) -> None:
        finite(strength=strength, scale=scale)
        if null is None and scale != 1:
            raise ValueError(f"scale is {scale}, but there is no null condition; give one.")
        super().__init__(model, strength=strength, scale=scale, layers=list(layers), skip=skip)
        self.null, self.strength, self.scale = null, strength, scale
        damaged = twin(model)
        blocks = {k: m for k, m in damaged.named_modules() if _is_block(m)}
        wanted = layers or ("mid_block",)
        chosen = [m for k, m in blocks.items() if any(name in k for name in wanted)]
        if not chosen and not layers:
            chosen = list(blocks.values())
        if not chosen:
            known = ", ".join(blocks) or "none"
            raise ValueError(
                f"No block's name contains one of {list(layers)}; there are: {known}."
            )
        for block in chosen:
            _skip(block) if skip else _look_at_itself(block.attn1)
        self.damaged = damaged

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The guided output of the network."""
        (damaged,) = self.damaged.outputs(x_t, level, (condition,))
        if self.null is None:
            (told,) = self.model.outputs(x_t, level, (condition,))
            return told + self.strength * (told - damaged)
        told, untold = self.pair(x_t, level, condition, self.null)
        return untold + self.scale * (told - untold) + self.strength * (told - damaged)


def _is_block(module: nn.Module) -> bool:
    """A transformer block of diffusers, by its parts."""
    return isinstance(getattr(module, "attn1", None), nn.Module) and hasattr(module, "ff")


def _skip(block: nn.Module) -> None:
    block.register_forward_hook(lambda module, given, out: given[0])


def _look_at_itself(attention: Any) -> None:
    """Make an attention map the identity: every token gets its own value."""

    def values(attention: Any, hidden_states: Tensor, *given: object, **options: object) -> Tensor:
        out = attention.to_v(hidden_states)
        for layer in attention.to_out:
            out = layer(out)
        return out

    attention.processor = values  # (set_processor wants a class)
