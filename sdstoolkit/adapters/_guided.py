"""Networks distilled for guidance: they are told the scale that they answer for."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel


class GuidancePrior(Prior):
    """A prior whose network is told a guidance scale, "guidance" [n].

    Args:
        score, codec, text: as `Prior`.
        guidance: the scale if none is given; None for a network that is told none.
    """

    def __init__(
        self, score: ScoreModel, codec: Codec, text: nn.Module, *, guidance: float | None
    ) -> None:
        super().__init__(score, codec, text)
        self.guidance = guidance
        self.accepts = () if guidance is None else ("guidance",)

    def condition(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        label: int | Sequence[int] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        hint: Tensor | None = None,
        guidance: float | None = None,
    ) -> Condition:
        """What the network is told, as `Prior.condition`, with a guidance scale.

        `guidance` is the scale that the network answers for; its family's default if None.

        Raises:
            ValueError: as `Prior.condition`, or a scale for a network that is told none.
        """
        told = super().condition(prompt, label=label, image=image, mask=mask, hint=hint)
        if self.guidance is None:
            if guidance is not None:
                raise ValueError(
                    f"guidance={guidance} was given, and this network is told none; guide it with"
                    " ClassifierFree."
                )
            return told
        scale = torch.tensor([self.guidance if guidance is None else float(guidance)])
        return Condition({**told, "guidance": scale.expand(told.rows).to(told["text"].device)})
