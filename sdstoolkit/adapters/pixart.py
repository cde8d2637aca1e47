"""PixArt alpha and sigma: a diffusion transformer with T5.

    (out, variance) = DiT(x_t, k, text, mask),   out = eps

The network learns a variance beside eps, which is split off. Alpha at 1024 pixels is told the size
of the image and its aspect ratio too. Prompts are lower case.

References:
    Chen et al., PixArt-alpha: Fast Training of Diffusion Transformer for Photorealistic
    Text-to-Image Synthesis, 2023, https://arxiv.org/abs/2310.00426
    Chen et al., PixArt-Sigma, 2024, https://arxiv.org/abs/2403.04692
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import NetworkScore, Trained, latent_shape
from sdstoolkit.adapters._text import Reader, Text, lowered
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.prior import Prior

LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}  # tokens of T5
PIPELINES = tuple(LENGTHS)
TAKES = "a prompt"
NEEDS = ("sentencepiece",)  # the tokenizer is in its format
EXAMPLES = ("PixArt-alpha/PixArt-XL-2-1024-MS", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS")


class PixArtScore(NetworkScore):
    """A PixArtTransformer2DModel, without the variance that it learns.

        out = DiT(x_t, k, text, mask)[:, :c]

    The condition has "text" [n, tokens, width] and "mask" bool [n, tokens]. One network evaluation
    a row.

    Args:
        network, trained, shape: as `NetworkScore`.
        multiple: the ratio of an image's size to x_t's.
    """

    takes = ("text", "mask")

    def __init__(
        self, network: nn.Module, trained: Trained, shape: Sequence[int], *, multiple: int
    ) -> None:
        super().__init__(network, trained, shape)
        self.multiple, self.patch = multiple, int(self.network.config.patch_size)

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """DiT(x_t, k, text, mask)[:, :c]."""
        told: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.network.use_additional_conditions:
            h, w = (size * self.multiple for size in x.shape[-2:])
            told["resolution"] = torch.tensor([[h, w]], device=x.device).repeat(len(x), 1)
            told["aspect_ratio"] = torch.tensor([[h / w]], device=x.device).repeat(len(x), 1)
        out = self.network(
            x,
            encoder_hidden_states=condition["text"],
            encoder_attention_mask=condition["mask"],
            timestep=noise,
            added_cond_kwargs=told,
            return_dict=False,
        )
        return out[0][:, : self.shape[0]]


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a PixArtAlphaPipeline or PixArtSigmaPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, PixArtTransformer2DModel
    from transformers import T5EncoderModel, T5Tokenizer

    trained = checkpoint.scheduler()
    encoder = checkpoint.network("text_encoder", T5EncoderModel)
    network = checkpoint.network("transformer", PixArtTransformer2DModel)
    autoencoder = checkpoint.network("vae", AutoencoderKL, AutoencoderTiny)
    checkpoint.fit(
        ("transformer's caption_channels", network.config.caption_channels,
         "text_encoder's d_model", encoder.config.d_model),
        ("transformer's in_channels", network.config.in_channels,
         "vae's latent_channels", autoencoder.config.latent_channels),
    )  # fmt: skip
    with checkpoint.explained():
        reader = Reader(
            encoder,
            checkpoint.tokenizer("tokenizer", T5Tokenizer),
            length=LENGTHS[checkpoint.index["_class_name"]],
            prepare=lowered,
        )
        codec = KLCodec(autoencoder, patch=int(network.config.patch_size))
        shape = latent_shape(network, autoencoder)
        score = PixArtScore(network, trained, shape, multiple=codec.multiple)
    return Prior(score, codec, Text(reader, mask=True))
