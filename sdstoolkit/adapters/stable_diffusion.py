"""Stable Diffusion 1.x and 2.x: a latent model with a CLIP text condition.

    out = UNet(x_t, k, text),  k = t (T - 1),  x_t = alpha_k x_0 + sigma_k eps,  x_0 = E(image)

What `out` is (epsilon, v or sample) and the table, zero-terminal-SNR ones too, are read from the
scheduler's config; the scheduler itself is not used. `text` is the last hidden state of the text
encoder for a prompt padded to the tokenizer's length: exactly what StableDiffusionPipeline passes
on. Version 2 reads its penultimate layer because its encoder is saved without the last one.

References:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2021,
    https://arxiv.org/abs/2112.10752
"""

from typing import Any, TypeVar

from torch import Tensor

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import NetworkScore, latent_shape
from sdstoolkit.adapters._text import Text, clip
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.prior import Prior

PIPELINES = ("StableDiffusionPipeline",)
TAKES = "a prompt"
EXAMPLES = ("stable-diffusion-v1-5/stable-diffusion-v1-5",)
UNSUPPORTED = (  # config keys of networks that need more than x_t, k and text
    "time_cond_proj_dim",
    "class_embed_type",
    "addition_embed_type",
    "encoder_hid_dim_type",
)
POOLED_TEXT = {"addition_embed_type": "text"}  # pools the text that the network is given anyway
Score = TypeVar("Score", bound=NetworkScore)


class StableDiffusionScore(NetworkScore):
    """A UNet2DConditionModel and the table it was trained on.

        out = UNet(x_t, k, text),   k = t (T - 1)

    The condition has one tensor, "text" [n, tokens, width]. One network evaluation a row.
    """

    takes: tuple[str, ...] = ("text",)

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """UNet(x_t, k, text)."""
        return self.network(x, noise, condition["text"], return_dict=False)[0]


class ClipText(Text):
    """Prompts to the last hidden state of a CLIP text encoder, "text" [n, length, width].

    Args:
        encoder: a transformers CLIPTextModel.
        tokenizer: its CLIPTokenizer.

    Raises:
        ValueError: the tokenizer's length or vocabulary is larger than the encoder's.
    """

    def __init__(self, encoder: Any, tokenizer: Any) -> None:
        super().__init__(clip(encoder, tokenizer))


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a StableDiffusionPipeline folder; its safety checker is not opened.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    score, autoencoder, text = components(checkpoint, StableDiffusionScore)
    return Prior(score, KLCodec(autoencoder), text)


def components(
    checkpoint: Checkpoint,
    score: type[Score],
    *,
    extra: int = 0,
    allowed: tuple[str, ...] = (),
) -> tuple[Score, Any, ClipText]:
    """The score model, the autoencoder and the text encoder of any Stable Diffusion.

    Args:
        checkpoint: the folder.
        score: the class of its score model.
        extra: channels that its network sees besides x_t.
        allowed: keys of `UNSUPPORTED` that the family knows.

    Raises:
        ValueError: as `open_checkpoint`.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    trained, config = checkpoint.scheduler(), checkpoint.config("unet")
    pooled = {key for key, value in POOLED_TEXT.items() if config.get(key) == value}
    checkpoint.expect("unet", {k: None for k in UNSUPPORTED if k not in {*allowed, *pooled}})
    tokenizer = checkpoint.tokenizer("tokenizer", CLIPTokenizer)
    encoder = checkpoint.network("text_encoder", CLIPTextModel)
    network = checkpoint.network("unet", UNet2DConditionModel)
    autoencoder = checkpoint.network("vae", AutoencoderKL, AutoencoderTiny)
    channels = autoencoder.config.latent_channels
    checkpoint.fit(
        ("unet's cross_attention_dim", network.config.cross_attention_dim,
         "text_encoder's hidden_size", encoder.config.hidden_size),
        ("unet's in_channels", network.config.in_channels,
         "vae's latent_channels" + (f" plus {extra}" if extra else ""), channels + extra),
    )  # fmt: skip
    with checkpoint.explained():
        text = ClipText(encoder, tokenizer)
        return (
            score(network, trained, latent_shape(network, autoencoder, extra=extra)),
            autoencoder,
            text,
        )
