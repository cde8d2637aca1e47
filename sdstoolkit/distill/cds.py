"""Contrastive denoising score: DDS that keeps the structure of its source.

    G = DDS + contrast grad_(x_0) NCE(h(x_t), h(y_t))

h are the features of the network's self-attention in its upper half. A patch of the edited image
shall be more like the same patch of the source than like the source's other patches,

    NCE = -mean_p log softmax_q(<h_p(x_t), h_q(y_t)> / temperature)_(q = p).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdstoolkit._typing import State
from sdstoolkit.condition import Condition
from sdstoolkit.distill._editing import LAW, WEIGHT, Editing
from sdstoolkit.distill.base import Prompt, TimeDraw
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import Weight
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel

__all__ = ["CDS"]


class CDS(Editing):
    """Contrastive denoising score, for edits that keep places and outlines.

        G = w (eps_hat(x_t, c) - eps_hat(y_t, c')) + contrast alpha grad_(x_t) NCE

    Network evaluations a row: 4, in one batched call, and 2 for the features, 1 of them with its
    way back.

    Nam, Kwon, Park and Ye, 2023, https://arxiv.org/abs/2311.18608.

    Args:
        model, prompt, source, source_prompt, negative, scale, weight, t_law, limits: as `Editing`.
        contrast: the weight of the contrastive term, at least 0; 0 is DDS.
        temperature: of the softmax, above 0.

    Raises:
        ValueError: the network has no self-attention, a number is out of range, or as `Editing`.
    """

    card = Card(
        rows=6,
        passes=1,
        paper="Nam et al., 2023",
        link="https://arxiv.org/abs/2311.18608",
        scale=7.5,
        bad_at="edits that shall move things; networks without self-attention",
    )

    def __init__(
        self,
        model: Prior | ScoreModel,
        prompt: Prompt = None,
        *,
        source: Tensor,
        source_prompt: Prompt = None,
        negative: Prompt = None,
        scale: float = 1.0,
        weight: Weight = WEIGHT,
        t_law: TimeDraw = LAW,
        limits: Sequence[Limit] = (),
        contrast: float = 3.0,
        temperature: float = 0.07,
    ) -> None:
        if not contrast >= 0 or not temperature > 0:
            raise ValueError(
                f"contrast is {contrast} and temperature {temperature}, expected at least 0 and "
                "above 0."
            )
        super().__init__(
            model,
            prompt,
            source=source,
            source_prompt=source_prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.contrast, self.temperature = contrast, temperature
        attention = {k: m for k, m in self.model.named_modules() if k.endswith("attn1")}
        upper = [m for k, m in attention.items() if "up_blocks" in k] or list(attention.values())
        if not upper and contrast > 0:
            raise ValueError(
                f"{type(self.model).__name__} has no self-attention to compare; use DDS."
            )
        self._attention: tuple[nn.Module, ...] = tuple(upper)
        self._states: tuple[Tensor, Tensor] | None = None

    def difference(self, x_t: State, y_t: State, level: NoiseLevel, eps: State) -> State:
        """The difference of the two guided predictions, as DDS."""
        self._states = x_t, y_t
        return self.delta(x_t, y_t, level)

    def besides(self, x_0: State, level: NoiseLevel) -> State | None:
        """The gradient of the contrastive term by x_0."""
        if self.contrast == 0 or self._states is None:
            return None
        (x_t, y_t), self._states = self._states, None
        there = self.features(y_t, level, self.source_condition)
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            here = self.features(x_t, level, self.condition)
            loss = self.nce(here, there)
            (slope,) = torch.autograd.grad(loss.sum(), x_t)
        return self.contrast * level.alpha * slope

    def features(
        self, x_t: Tensor, level: NoiseLevel, condition: Condition | None
    ) -> list[Tensor]:
        """What the self-attention layers return, [n, patches, width] each."""
        seen: list[Tensor] = []
        hooks = [
            m.register_forward_hook(lambda module, given, out: seen.append(out))
            for m in self._attention
        ]
        try:
            self.model.outputs(x_t, level, [condition])
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def nce(self, here: Sequence[Tensor], there: Sequence[Tensor]) -> Tensor:
        """The contrastive loss of each row, [n], a mean over layers and patches."""
        losses = []
        for h, k in zip(here, there, strict=True):
            h, k = (functional.normalize(v.flatten(1, -2), dim=-1) for v in (h, k.detach()))
            logits = h @ k.mT / self.temperature
            losses.append(-logits.log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean(-1))
        return torch.stack(losses).mean(0)
