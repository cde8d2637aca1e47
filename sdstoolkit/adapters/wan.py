"""Wan 2.1, for single images: a video flow that is asked for one frame.

    out = DiT(x_t, 1000 t, text) = eps - x_0,   x_t = (1 - t) x_0 + t eps

An image is a video of one frame, to the network as to the autoencoder. Padding is zeros.

Reference:
    Wan Team, Wan: Open and Advanced Large-Scale Video Generative Models, 2025,
    https://arxiv.org/abs/2503.20314
"""

import html

from torch import Tensor

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._codecs import FrameCodec
from sdstoolkit.adapters._network import NetworkScore
from sdstoolkit.adapters._text import Reader
from sdstoolkit.adapters.aura_flow import MaskedText
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Rectified
from sdstoolkit.prior import Prior

PIPELINES = ("WanPipeline",)
TAKES = "a prompt"
EXAMPLES = ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers",)
LENGTH = 512  # tokens of T5
SIZE = (480, 832)  # pixels


class WanScore(NetworkScore):
    """A WanTransformer3DModel on one frame.

        out = DiT(x_t, 1000 t, text) = eps - x_0

    The condition has "text" [n, tokens, width]. One network evaluation a row.
    """

    takes = ("text",)

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """DiT(x_t, 1000 t, text)."""
        out = self.network(
            hidden_states=x[:, :, None],
            timestep=noise,
            encoder_hidden_states=condition["text"],
            return_dict=False,
        )
        return out[0][:, :, 0]


def cleaned(prompt: str) -> str:
    """A prompt without HTML entities and with single blanks."""
    return " ".join(html.unescape(html.unescape(prompt)).split())


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a WanPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, two of them do
            not fit together, or the folder is of Wan 2.2, which has a network for each half of the
            times or a time for each token.
    """
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import T5Tokenizer, UMT5EncoderModel

    for key in ("boundary_ratio", "expand_timesteps"):
        if checkpoint.index.get(key):
            raise ValueError(
                f"{checkpoint.name!r} has {key}={checkpoint.index[key]!r}, expected none: it is of"
                " Wan 2.2, and this family is Wan 2.1."
            )
    trained = checkpoint.scheduler(Rectified)
    encoder = checkpoint.network("text_encoder", UMT5EncoderModel)
    network = checkpoint.network("transformer", WanTransformer3DModel)
    autoencoder = checkpoint.network("vae", AutoencoderKLWan)
    channels, patch = autoencoder.config.z_dim, network.config.patch_size[-1]
    checkpoint.fit(
        ("transformer's text_dim", network.config.text_dim,
         "text_encoder's d_model", encoder.config.d_model),
        ("transformer's in_channels", network.config.in_channels, "vae's z_dim", channels),
    )  # fmt: skip
    with checkpoint.explained():
        tokenizer = checkpoint.tokenizer("tokenizer", T5Tokenizer)
        reader = Reader(encoder, tokenizer, length=LENGTH, prepare=cleaned)
        codec = FrameCodec(autoencoder, patch=patch)
        h, w = (size // codec.multiple for size in SIZE)
        score = WanScore(network, trained, (channels, h, w))
    score.patch = patch
    return Prior(score, codec, MaskedText(reader))
