"""Z-Image: a rectified flow with Qwen3 whose network runs the other way.

    -out = DiT(x_t, 1 - t, text) = x_0 - eps,   x_t = (1 - t) x_0 + t eps

The network's time is 1 at the image and its velocity points there. A prompt is a message of a
chat. The pipeline's guidance is c + g (c - u): see `sdstoolkit.guidance.Extrapolated`.

Reference:
    Z-Image Team, Z-Image: An Efficient Image Generation Foundation Model, 2025,
    https://github.com/Tongyi-MAI/Z-Image
"""

import torch
from torch import Tensor

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import Linear, NetworkScore, autoencoder_shape
from sdstoolkit.adapters._packing import PATCH
from sdstoolkit.adapters._text import Reader, Text
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Rectified
from sdstoolkit.prior import Prior

PIPELINES = ("ZImagePipeline",)
TAKES = "a prompt"
EXAMPLES = ("Tongyi-MAI/Z-Image-Turbo",)
LENGTH = 512  # tokens of Qwen3


class ZImageScore(NetworkScore):
    """A ZImageTransformer2DModel.

        out = -DiT(x_t, 1 - t, text) = eps - x_0

    The condition has "text" [n, tokens, width] and "mask" bool [n, tokens]: the network takes
    every prompt in its own length, so the device is asked for the lengths. One network evaluation
    a row.
    """

    takes = ("text", "mask")
    patch = PATCH

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """-DiT(x_t, 1 - t, text)."""
        lengths = condition["mask"].sum(dim=1).tolist()
        texts = [text[:k] for text, k in zip(condition["text"], lengths, strict=True)]
        out = self.network(list(x[:, :, None]), noise, texts, return_dict=False)
        return -torch.stack(list(out[0]))[:, :, 0]


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a ZImagePipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, ZImageTransformer2DModel
    from transformers import Qwen2Tokenizer, Qwen3Model

    trained = checkpoint.scheduler(Rectified)._replace(inputs=Linear(-1, 1))
    encoder = checkpoint.network("text_encoder", Qwen3Model)
    network = checkpoint.network("transformer", ZImageTransformer2DModel)
    autoencoder = checkpoint.network("vae", AutoencoderKL, AutoencoderTiny)
    checkpoint.fit(
        ("transformer's cap_feat_dim", network.config.cap_feat_dim,
         "text_encoder's hidden_size", encoder.config.hidden_size),
        ("transformer's in_channels", network.config.in_channels,
         "vae's latent_channels", autoencoder.config.latent_channels),
    )  # fmt: skip
    tokenizer = checkpoint.tokenizer("tokenizer", Qwen2Tokenizer)
    if not tokenizer.chat_template:
        raise ValueError(f"The tokenizer of {checkpoint.name!r} has no chat template.")

    def chat(prompt: str) -> str:
        """The prompt as the user's message, and the answer begun."""
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )

    with checkpoint.explained():
        reader = Reader(encoder, tokenizer, length=LENGTH, layer=-2, prepare=chat)
        score = ZImageScore(network, trained, autoencoder_shape(autoencoder))
    return Prior(score, KLCodec(autoencoder, patch=PATCH), Text(reader, mask=True))
