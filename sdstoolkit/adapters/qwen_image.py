"""Qwen-Image: a rectified flow with a vision-language model, in a video autoencoder's latents.

    out = MMDiT(pack(x_t), t, text, mask) = pack(eps - x_0),   x_t = (1 - t) x_0 + t eps

A prompt goes into a chat that asks for a description; the states of the chat's first 34 tokens are
left out. An image is a video of one frame. The pipeline's guidance keeps the norm of every token:
see `sdstoolkit.guidance.TokenNorm`.

Reference:
    Wu et al., Qwen-Image Technical Report, 2025, https://arxiv.org/abs/2508.02324
"""

from collections.abc import Sequence

from torch import Tensor, nn

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._codecs import FrameCodec
from sdstoolkit.adapters._network import Linear, NetworkScore
from sdstoolkit.adapters._packing import PATCH, pack, unpack
from sdstoolkit.adapters._text import Reader
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Rectified
from sdstoolkit.prior import Prior

PIPELINES = ("QwenImagePipeline",)
TAKES = "a prompt"
EXAMPLES = ("Qwen/Qwen-Image",)
TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture,"
    " quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}"
    "<|im_end|>\n<|im_start|>assistant\n"
)
SKIPPED = 34  # tokens of the template before the prompt
LENGTH = 512  # tokens of a prompt and the template's end
SIZE = 1024  # pixels


class QwenImageScore(NetworkScore):
    """A QwenImageTransformer2DModel.

        out = unpack(MMDiT(pack(x_t), t, text, mask)) = eps - x_0

    The condition has "text" [n, tokens, width] and "mask" bool [n, tokens]: padding that no row
    needs is cut off, so the device is asked for the longest. One network evaluation a row.
    """

    takes = ("text", "mask")
    patch = PATCH

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """MMDiT(pack(x_t), t, text, mask), unpacked."""
        h, w = (size // PATCH for size in x.shape[-2:])
        mask = condition["mask"]
        longest = int(mask.sum(dim=1).max())
        mask = mask[:, :longest]
        out = self.network(
            hidden_states=pack(x),
            timestep=noise,
            encoder_hidden_states=condition["text"][:, :longest],
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, h, w)]] * len(x),
            return_dict=False,
        )
        return unpack(out[0], x)


class Described(nn.Module):
    """Prompts to "text" and "mask", without the first tokens of their template.

    Args:
        reader: the encoder.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, prompts: Sequence[str]) -> Condition:
        """The condition of some prompts, one row each."""
        reading = self.reader.read(prompts)
        mask = reading.mask[:, SKIPPED:]
        return Condition({"text": reading.hidden[:, SKIPPED:] * mask[..., None], "mask": mask})


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a QwenImagePipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

    trained = checkpoint.scheduler(Rectified)._replace(inputs=Linear(1))
    checkpoint.expect("transformer", {"guidance_embeds": False, "zero_cond_t": False})
    encoder = checkpoint.network("text_encoder", Qwen2_5_VLForConditionalGeneration)
    network = checkpoint.network("transformer", QwenImageTransformer2DModel)
    autoencoder = checkpoint.network("vae", AutoencoderKLQwenImage)
    channels, width = autoencoder.config.z_dim, encoder.config.get_text_config().hidden_size
    checkpoint.fit(
        ("transformer's joint_attention_dim", network.config.joint_attention_dim,
         "text_encoder's hidden_size", width),
        ("transformer's in_channels", network.config.in_channels,
         "vae's z_dim times 4", 4 * channels),
    )  # fmt: skip
    with checkpoint.explained():
        tokenizer = checkpoint.tokenizer("tokenizer", Qwen2Tokenizer)
        reader = Reader(
            encoder, tokenizer, length=SKIPPED + LENGTH, layer=-1, prepare=TEMPLATE.format
        )
        codec = FrameCodec(autoencoder, patch=PATCH)
        size = SIZE // codec.multiple
        score = QwenImageScore(network, trained, (channels, size, size))
    return Prior(score, codec, Described(reader))
