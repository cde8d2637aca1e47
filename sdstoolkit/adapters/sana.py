"""Sana: a linear diffusion transformer on deeply compressed latents, with Gemma.

    out = DiT(x_t, 1000 t timestep_scale, text, mask) = eps - x_0,   x_t = (1 - t) x_0 + t eps

Its autoencoder divides an image's height and width by 32. Prompts are lower case and go to the
encoder as they are: the pipeline's default is to put a long instruction before them.

Reference:
    Xie et al., SANA: Efficient High-Resolution Image Synthesis with Linear Diffusion Transformers,
    2024, https://arxiv.org/abs/2410.10629
"""

from torch import Tensor

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import Linear, NetworkScore, latent_shape
from sdstoolkit.adapters._text import Reader, Text, lowered
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Rectified
from sdstoolkit.prior import Prior

PIPELINES = ("SanaPipeline",)
TAKES = "a prompt"
EXAMPLES = ("Efficient-Large-Model/Sana_600M_512px_diffusers",)
LENGTH = 300  # tokens of Gemma


class SanaScore(NetworkScore):
    """A SanaTransformer2DModel.

        out = DiT(x_t, 1000 t timestep_scale, text, mask)[:, :c] = eps - x_0

    The condition has "text" [n, tokens, width] and "mask" bool [n, tokens]. One network evaluation
    a row.
    """

    takes = ("text", "mask")

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """DiT(x_t, 1000 t timestep_scale, text, mask)[:, :c]."""
        out = self.network(
            x,
            encoder_hidden_states=condition["text"],
            encoder_attention_mask=condition["mask"],
            timestep=noise,
            return_dict=False,
        )
        return out[0][:, : self.shape[0]]


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a SanaPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import AutoencoderDC, SanaTransformer2DModel
    from transformers import Gemma2Model, GemmaTokenizer

    trained = checkpoint.scheduler(Rectified)
    checkpoint.expect("transformer", {"guidance_embeds": False})
    encoder = checkpoint.network("text_encoder", Gemma2Model)
    network = checkpoint.network("transformer", SanaTransformer2DModel)
    autoencoder = checkpoint.network("vae", AutoencoderDC)
    config = network.config
    checkpoint.fit(
        ("transformer's caption_channels", config.caption_channels,
         "text_encoder's hidden_size", encoder.config.hidden_size),
        ("transformer's in_channels", config.in_channels,
         "vae's latent_channels", autoencoder.config.latent_channels),
    )  # fmt: skip
    with checkpoint.explained():
        tokenizer = checkpoint.tokenizer("tokenizer", GemmaTokenizer)
        reader = Reader(encoder, tokenizer, length=LENGTH, prepare=lowered)
        trained = trained._replace(inputs=Linear(1000 * config.timestep_scale))
        score = SanaScore(network, trained, latent_shape(network, autoencoder))
    score.patch = config.patch_size
    return Prior(score, KLCodec(autoencoder, patch=score.patch), Text(reader, mask=True))
