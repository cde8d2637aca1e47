"""Stable Diffusion 3 and 3.5: a rectified flow with two CLIP encoders and T5.

    out = MMDiT(x_t, 1000 t, text, pooled) = eps - x_0,   x_t = (1 - t) x_0 + t eps

`text` is the tokens of CLIP, the last but one hidden states of both encoders side by side, filled
with zeros to T5's width, and then those of T5; `pooled` is both projected states side by side. A
folder without T5 has zeros for its tokens. The scheduler's shift decides on the times that the
pipeline visits, not on the path; `describe()` records it.

Reference:
    Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, 2024,
    https://arxiv.org/abs/2403.03206
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import NetworkScore, latent_shape
from sdstoolkit.adapters._text import Reader, clip
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Rectified
from sdstoolkit.prior import Prior

PIPELINES = ("StableDiffusion3Pipeline",)
TAKES = "a prompt"
EXAMPLES = (
    "stabilityai/stable-diffusion-3-medium-diffusers",
    "stabilityai/stable-diffusion-3.5-medium",
)
LENGTH = 256  # tokens of T5


class StableDiffusion3Score(NetworkScore):
    """An SD3Transformer2DModel.

        out = MMDiT(x_t, 1000 t, text, pooled) = eps - x_0

    The condition has "text" [n, tokens, width] and "pooled" [n, width]. One network evaluation a
    row.
    """

    takes = ("text", "pooled")

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """MMDiT(x_t, 1000 t, text, pooled)."""
        out = self.network(
            hidden_states=x,
            timestep=noise,
            encoder_hidden_states=condition["text"],
            pooled_projections=condition["pooled"],
            return_dict=False,
        )
        return out[0]


class ClipsAndT5(nn.Module):
    """Prompts to "text" and "pooled".

    Args:
        clips: the two CLIP encoders.
        t5: the T5 encoder, or None for zeros in its place.
        width: of T5's states.
    """

    clips: Any  # an nn.ModuleList of them

    def __init__(self, clips: Sequence[Reader], t5: Reader | None, *, width: int) -> None:
        super().__init__()
        self.clips, self.t5, self.width = nn.ModuleList(clips), t5, width

    def forward(self, prompts: Sequence[str]) -> Condition:
        """The condition of some prompts, one row each."""
        readings = [reader.read(prompts) for reader in self.clips]
        both = torch.cat([reading.hidden for reading in readings], dim=-1)
        both = pad(both, (0, self.width - both.shape[-1]))
        if self.t5 is None:
            long = both.new_zeros(len(both), LENGTH, self.width)
        else:
            long = self.t5.read(prompts).hidden.to(both.dtype)
        pooled = torch.cat([reading.pooled for reading in readings], dim=-1)
        return Condition({"text": torch.cat([both, long], dim=1), "pooled": pooled})


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a StableDiffusion3Pipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, SD3Transformer2DModel
    from transformers import (
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        T5EncoderModel,
        T5Tokenizer,
    )

    trained = checkpoint.scheduler(Rectified)
    encoders = [
        checkpoint.network(name, CLIPTextModelWithProjection)
        for name in ("text_encoder", "text_encoder_2")
    ]
    third = (
        checkpoint.network("text_encoder_3", T5EncoderModel)
        if checkpoint.has("text_encoder_3")
        else None
    )
    network = checkpoint.network("transformer", SD3Transformer2DModel)
    autoencoder = checkpoint.network("vae", AutoencoderKL, AutoencoderTiny)
    config = network.config
    pooled = sum(encoder.config.projection_dim for encoder in encoders)
    checkpoint.fit(
        ("transformer's pooled_projection_dim", config.pooled_projection_dim,
         "width of the pooled text", pooled),
        ("transformer's in_channels", config.in_channels,
         "vae's latent_channels", autoencoder.config.latent_channels),
    )  # fmt: skip
    if third is not None:
        checkpoint.fit(
            ("transformer's joint_attention_dim", config.joint_attention_dim,
             "text_encoder_3's d_model", third.config.d_model),
        )  # fmt: skip
    with checkpoint.explained():
        clips = [
            clip(encoder, checkpoint.tokenizer(name, CLIPTokenizer), layer=-2)
            for encoder, name in zip(encoders, ("tokenizer", "tokenizer_2"), strict=True)
        ]
        t5 = None
        if third is not None:
            tokenizer = checkpoint.tokenizer("tokenizer_3", T5Tokenizer)
            t5 = Reader(third, tokenizer, length=LENGTH, masked=False)
        score = StableDiffusion3Score(network, trained, latent_shape(network, autoencoder))
    score.patch = config.patch_size
    text = ClipsAndT5(clips, t5, width=config.joint_attention_dim)
    return Prior(score, KLCodec(autoencoder, patch=score.patch), text)
