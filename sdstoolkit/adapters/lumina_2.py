"""Lumina-Image 2.0: a rectified flow with Gemma whose network runs the other way.

    -out = DiT(x_t, 1 - t, text, mask) = x_0 - eps,   x_t = (1 - t) x_0 + t eps

The network's time is 1 at the image and its velocity points there. A prompt goes behind a system
prompt; the null prompt does not. Its guidance keeps a norm: see `sdstoolkit.guidance.RowNorm`.

Reference:
    Qin et al., Lumina-Image 2.0: A Unified and Efficient Image Generative Framework, 2025,
    https://arxiv.org/abs/2503.21758
"""

from torch import Tensor

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import Linear, NetworkScore, latent_shape
from sdstoolkit.adapters._text import Reader, Text
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Rectified
from sdstoolkit.prior import Prior

PIPELINES = ("Lumina2Pipeline",)
TAKES = "a prompt"
EXAMPLES = ("Alpha-VLLM/Lumina-Image-2.0",)
LENGTH = 256  # tokens of Gemma
SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of"
    " image-text alignment based on textual prompts or user prompts. <Prompt Start> "
)


class Lumina2Score(NetworkScore):
    """A Lumina2Transformer2DModel.

        out = -DiT(x_t, 1 - t, text, mask) = eps - x_0

    The condition has "text" [n, tokens, width] and "mask" bool [n, tokens]. One network evaluation
    a row.
    """

    takes = ("text", "mask")

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """-DiT(x_t, 1 - t, text, mask)."""
        out = self.network(
            hidden_states=x,
            timestep=noise,
            encoder_hidden_states=condition["text"],
            encoder_attention_mask=condition["mask"],
            return_dict=False,
        )
        return -out[0]


def instructed(prompt: str) -> str:
    """A prompt behind the system prompt; the null prompt stays empty."""
    return SYSTEM + prompt if prompt else ""


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a Lumina2Pipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, Lumina2Transformer2DModel
    from transformers import Gemma2Model, GemmaTokenizer

    trained = checkpoint.scheduler(Rectified)._replace(inputs=Linear(-1, 1))
    encoder = checkpoint.network("text_encoder", Gemma2Model)
    network = checkpoint.network("transformer", Lumina2Transformer2DModel)
    autoencoder = checkpoint.network("vae", AutoencoderKL, AutoencoderTiny)
    config = network.config
    checkpoint.fit(
        ("transformer's cap_feat_dim", config.cap_feat_dim,
         "text_encoder's hidden_size", encoder.config.hidden_size),
        ("transformer's in_channels", config.in_channels,
         "vae's latent_channels", autoencoder.config.latent_channels),
    )  # fmt: skip
    with checkpoint.explained():
        tokenizer = checkpoint.tokenizer("tokenizer", GemmaTokenizer)
        reader = Reader(encoder, tokenizer, length=LENGTH, layer=-2, prepare=instructed)
        score = Lumina2Score(network, trained, latent_shape(network, autoencoder))
    score.patch = config.patch_size
    return Prior(score, KLCodec(autoencoder, patch=score.patch), Text(reader, mask=True))
