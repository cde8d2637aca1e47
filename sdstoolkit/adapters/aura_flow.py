"""AuraFlow: a rectified flow with a T5 whose padding is zeros.

    out = MMDiT(x_t, t, text) = eps - x_0,   x_t = (1 - t) x_0 + t eps

Reference:
    fal, AuraFlow, 2024, https://blog.fal.ai/auraflow
"""

from collections.abc import Sequence

from torch import Tensor, nn

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import Linear, NetworkScore, latent_shape
from sdstoolkit.adapters._text import Reader
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Rectified
from sdstoolkit.prior import Prior

PIPELINES = ("AuraFlowPipeline",)
TAKES = "a prompt"
EXAMPLES = ("fal/AuraFlow-v0.3",)
LENGTH = 256  # tokens of T5


class AuraFlowScore(NetworkScore):
    """An AuraFlowTransformer2DModel.

        out = MMDiT(x_t, t, text) = eps - x_0

    The condition has "text" [n, tokens, width]. One network evaluation a row.
    """

    takes = ("text",)

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """MMDiT(x_t, t, text)."""
        out = self.network(
            x,
            encoder_hidden_states=condition["text"],
            timestep=noise.to(x.dtype),
            return_dict=False,
        )
        return out[0]


class MaskedText(nn.Module):
    """Prompts to "text" [n, length, width], zero where there is padding.

    Args:
        reader: the encoder.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, prompts: Sequence[str]) -> Condition:
        """The condition of some prompts, one row each."""
        reading = self.reader.read(prompts)
        return Condition({"text": reading.hidden * reading.mask[..., None]})


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of an AuraFlowPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import AuraFlowTransformer2DModel, AutoencoderKL, AutoencoderTiny
    from transformers import LlamaTokenizer, T5Tokenizer, UMT5EncoderModel

    trained = checkpoint.scheduler(Rectified)._replace(inputs=Linear(1))
    encoder = checkpoint.network("text_encoder", UMT5EncoderModel)
    network = checkpoint.network("transformer", AuraFlowTransformer2DModel)
    autoencoder = checkpoint.network("vae", AutoencoderKL, AutoencoderTiny, overflows=True)
    config = network.config
    checkpoint.fit(
        ("transformer's joint_attention_dim", config.joint_attention_dim,
         "text_encoder's d_model", encoder.config.d_model),
        ("transformer's in_channels", config.in_channels,
         "vae's latent_channels", autoencoder.config.latent_channels),
    )  # fmt: skip
    with checkpoint.explained():
        tokenizer = checkpoint.tokenizer("tokenizer", LlamaTokenizer, T5Tokenizer)
        reader = Reader(encoder, tokenizer, length=LENGTH)
        score = AuraFlowScore(network, trained, latent_shape(network, autoencoder))
    score.patch = config.patch_size
    return Prior(score, KLCodec(autoencoder, patch=score.patch), MaskedText(reader))
