"""A prior over images: a score model, the codec of its space, and what understands a prompt.

    log p(image | prompt)   through   grad log p_t(x_t | condition(prompt)),   x_0 = E(image)

`sdstoolkit.load` returns one. Everything that is a string ends here: `Prior.condition` turns
prompts into tensors, and nothing below it knows that there were words.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition, cat
from sdstoolkit.noise import Schedule
from sdstoolkit.score import ScoreModel


class Prior(nn.Module):
    """A pretrained image model, ready for use: frozen, and in evaluation mode.

    A family whose conditions are not prompts alone overrides `condition`.

    Args:
        score: the score model.
        codec: maps images to the score model's space.
        text: text(prompts: list[str]) -> Condition, a row a prompt; None for a model that reads
            no prompts.

    Attributes:
        accepts: what `condition` takes besides a prompt, the names of its arguments.
    """

    accepts: tuple[str, ...] = ()

    def __init__(
        self,
        score: ScoreModel,
        codec: Codec,
        text: Callable[[list[str]], Condition] | None = None,
    ) -> None:
        super().__init__()
        self.score = score
        self.codec = codec
        self.text = text
        self._reads = text is not None
        self._encoded: dict[str, Condition] = {}
        self.requires_grad_(False).eval()

    @property
    def schedule(self) -> Schedule:
        """The score model's noise schedule."""
        return self.score.schedule

    @property
    def device(self) -> torch.device:
        """Where the score model is."""
        tensor = next(chain(self.score.parameters(), self.score.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """The score model's dtype, float32 if it has no parameters."""
        return self.score.dtype or torch.float32

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the images the model was made for."""
        h, w = self.score.shape[-2:]
        return h * self.codec.multiple, w * self.codec.multiple

    def condition(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        label: int | Sequence[int] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        hint: Tensor | None = None,
    ) -> Condition:
        """What the network is told, as tensors; nothing given means the unconditional model.

        A prompt is encoded on its own, so that its row does not depend on the others, and once:
        later calls remember it.

        Args:
            prompt: one text, or one a row; "" is the null prompt, and None the same.
            label: class index, one or one a row.
            image: an image the model starts from, [n, c, h, w] in [0, 1].
            mask: where to paint, [n, 1, h, w] in [0, 1].
            hint: a control image, [n, c, h, w] in [0, 1].

        Raises:
            ValueError: something this family cannot take, or a new prompt after `drop_text`.
        """
        given = {"label": label, "image": image, "mask": mask, "hint": hint}
        self.refuse({k: v for k, v in given.items() if v is not None})
        if not self._reads:
            self.refuse({} if prompt is None else {"prompt": prompt})
            return Condition()
        prompts = [prompt or ""] if prompt is None or isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("An empty list of prompts was given; give at least one, maybe ''.")
        return cat(*map(self._encode, prompts))

    @property
    def takes(self) -> str:
        """What a condition is made of, in words; a family that takes more than prompts says so."""
        return "a prompt" if self._reads else "nothing, it is unconditional"

    def refuse(self, given: dict[str, object]) -> None:
        """Raise a ValueError that says what this family takes, if anything is `given`."""
        if given:
            raise ValueError(
                f"{type(self.score).__name__} cannot be conditioned on {', '.join(given)}; "
                f"it takes {self.takes}."
            )

    def drop_text(self) -> None:
        """Free the text encoder. Prompts encoded before, and the null prompt, stay known."""
        if self.text is not None:
            self._encode("")
            self.text = None

    def _encode(self, prompt: str) -> Condition:
        if prompt not in self._encoded:
            if self.text is None:
                raise ValueError(
                    f"The prompt {prompt!r} is new and the text encoder was dropped; encode every "
                    "prompt with condition() before drop_text()."
                )
            with torch.no_grad():
                self._encoded[prompt] = self.text([prompt]).to(self.device)
        return self._encoded[prompt]


class Told(Prior):
    """A prior that is always told the same besides the prompt: an image, a mask, a hint.

        told.condition(prompt) = prior.condition(prompt, hint=hint)

    so that what asks a prior for prompts, such as a loss, need not know of it. The null prompt is
    told it too.

    Args:
        prior: any.
        always: keyword arguments of its `condition`.
    """

    def __init__(self, prior: Prior, always: Mapping[str, Any]) -> None:
        super().__init__(prior.score, prior.codec, prior.text)
        self.prior, self.always, self.accepts = prior, dict(always), prior.accepts

    def condition(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        label: int | Sequence[int] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        hint: Tensor | None = None,
    ) -> Condition:
        """As the prior's; what is given here takes the place of what is always told."""
        given = {"label": label, "image": image, "mask": mask, "hint": hint}
        given = {k: v for k, v in given.items() if v is not None}
        return self.prior.condition(prompt, **(self.always | given))

    @property
    def takes(self) -> str:
        """As the prior's."""
        return self.prior.takes

    def drop_text(self) -> None:
        """Free the text encoder, as the prior's."""
        self.prior.drop_text()
        self.text = None
