"""DeepFloyd IF, stage I: a pixel model of 64 x 64 images with T5.

    (out, variance) = UNet(x_t, k, text),   out = eps,   x_0 = 2 image - 1

The network learns a variance beside eps, which is split off. Prompts are lower case.

References:
    DeepFloyd Lab, IF, 2023, https://github.com/deep-floyd/IF
    Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding,
    2022, https://arxiv.org/abs/2205.11487
"""

from torch import Tensor

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import sample_size
from sdstoolkit.adapters._text import Reader, Text, lowered
from sdstoolkit.adapters.stable_diffusion import StableDiffusionScore
from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.prior import Prior

PIPELINES = ("IFPipeline",)
TAKES = "a prompt"
NEEDS = ("sentencepiece",)  # the tokenizer is in its format
EXAMPLES = ("DeepFloyd/IF-I-M-v1.0",)
LENGTH = 77  # tokens of T5


class DeepFloydIFScore(StableDiffusionScore):
    """A UNet2DConditionModel in pixels, without the variance that it learns.

        out = UNet(x_t, k, text)[:, :c]

    The condition has "text" [n, tokens, width]. One network evaluation a row.
    """

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """UNet(x_t, k, text)[:, :c]."""
        return super().call(x, noise, condition)[:, : self.shape[0]]


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of an IFPipeline folder; its safety checker and watermark are not opened.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import UNet2DConditionModel
    from transformers import T5EncoderModel, T5Tokenizer

    trained = checkpoint.scheduler()
    checkpoint.expect("unet", {"class_embed_type": None, "in_channels": 3})
    encoder = checkpoint.network("text_encoder", T5EncoderModel)
    network = checkpoint.network("unet", UNet2DConditionModel)
    config = network.config
    checkpoint.fit(
        ("unet's encoder_hid_dim", config.encoder_hid_dim,
         "text_encoder's d_model", encoder.config.d_model),
    )  # fmt: skip
    with checkpoint.explained():
        tokenizer = checkpoint.tokenizer("tokenizer", T5Tokenizer)
        reader = Reader(encoder, tokenizer, length=LENGTH, prepare=lowered)
        score = DeepFloydIFScore(network, trained, (config.in_channels, *sample_size(network)))
    return Prior(score, Codec(channels=config.in_channels), Text(reader))
