"""Rewards: what an image is worth, a number each. Any callable like these will do.

R : images [n, c, h, w] in [0, 1]  ->  [n]
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdstoolkit._typing import Image, Rows

__all__ = ["CLIPSimilarity", "Reward", "TargetColour"]

Reward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TargetColour:
    """How near an image's mean colour is to another.

        R = -||mean(image) - colour||^2

    Args:
        colour: red, green and blue, or one grey value, in [0, 1].

    Raises:
        ValueError: values outside [0, 1].
    """

    colour: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.colour) not in (1, 3) or not all(0 <= c <= 1 for c in self.colour):
            raise ValueError(f"colour is {self.colour}, expected 1 or 3 values in [0, 1].")

    def __call__(self, image: Image) -> Rows:
        """The reward of each image, [n]."""
        return -(image.mean((2, 3)) - image.new_tensor(self.colour)).square().sum(1)


class CLIPSimilarity(nn.Module):
    """The cosine between an image and a text, by a CLIP model of a local folder.

        R = <f(image), g(text)> / (|f| |g|)

    Radford et al., 2021, https://arxiv.org/abs/2103.00020.

    Args:
        folder: where `CLIPModel` and its tokenizer were saved; nothing is downloaded.
        prompt: the text, or one an image.

    Raises:
        ValueError: the folder does not exist, or holds no such model.
    """

    text: Tensor
    MEAN, STD = (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)

    def __init__(self, folder: str | os.PathLike[str], prompt: str | Sequence[str]) -> None:
        super().__init__()
        from transformers import CLIPModel, CLIPTokenizer

        if not os.path.isdir(folder):
            raise ValueError(f"There is no folder {os.fspath(folder)!r}, expected a CLIP model.")
        try:
            model: Any = CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"{os.fspath(folder)!r} holds no CLIP model: {error}.") from None
        self.model = model.requires_grad_(False).eval()
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            pooled = model.text_model(**tokens).pooler_output
            text = functional.normalize(model.text_projection(pooled), dim=-1)
        self.register_buffer("text", text, persistent=False)

    def forward(self, image: Image) -> Rows:
        """The similarity of each image, [n]."""
        side = self.model.config.vision_config.image_size
        pixels = functional.interpolate(
            image.expand(-1, 3, -1, -1).clamp(0, 1), (side, side), mode="bicubic", antialias=True
        )
        mean, std = (pixels.new_tensor(v).reshape(3, 1, 1) for v in (self.MEAN, self.STD))
        seen = self.model.vision_model(pixel_values=(pixels - mean) / std).pooler_output
        f = functional.normalize(self.model.visual_projection(seen), dim=-1)
        return (f * self.text.to(f)).sum(-1)
