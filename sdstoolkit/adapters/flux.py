"""Flux, dev and schnell: a rectified flow with CLIP's pooled state and T5.

    out = DiT(pack(x_t), t, text, pooled, guidance) = pack(eps - x_0),   x_t = (1 - t) x_0 + t eps

`dev` is distilled: it is told a guidance scale and answers as if guided by it; 3.5 unless told
otherwise. That is beside, and not in place of, guiding away from a null condition. The network
sees latents packed into 2 x 2 patches; a state here is never packed.

Reference:
    Black Forest Labs, FLUX.1, 2024, https://github.com/black-forest-labs/flux
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._guided import GuidancePrior
from sdstoolkit.adapters._network import Linear, NetworkScore, Trained, autoencoder_shape
from sdstoolkit.adapters._packing import PATCH, pack, unpack
from sdstoolkit.adapters._text import Reader, clip
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Rectified
from sdstoolkit.prior import Prior

PIPELINES = ("FluxPipeline",)
TAKES = "a prompt"
EXAMPLES = ("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell")
LENGTHS = {True: 512, False: 256}  # tokens of T5: dev, schnell
GUIDANCE = 3.5


class FluxScore(NetworkScore):
    """A FluxTransformer2DModel.

        out = unpack(DiT(pack(x_t), t, text, pooled, guidance)) = eps - x_0

    The condition has "text" [n, tokens, width], "pooled" [n, width] and, of a network distilled
    for guidance, "guidance" [n]. One network evaluation a row.
    """

    patch = PATCH

    def __init__(self, network: nn.Module, trained: Trained, shape: Sequence[int]) -> None:
        super().__init__(network, trained, shape)
        self.distilled = bool(self.network.config.guidance_embeds)
        self.takes = ("text", "pooled", *(("guidance",) if self.distilled else ()))

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """DiT(pack(x_t), t, text, pooled, guidance), unpacked."""
        h, w = (size // PATCH for size in x.shape[-2:])
        rows, columns = torch.meshgrid(
            torch.arange(h, device=x.device), torch.arange(w, device=x.device), indexing="ij"
        )
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(h * w, 3)
        text = condition["text"]
        out = self.network(
            hidden_states=pack(x),
            timestep=noise,
            encoder_hidden_states=text,
            pooled_projections=condition["pooled"],
            img_ids=places.to(x.dtype),
            txt_ids=text.new_zeros(text.shape[1], 3),
            guidance=condition["guidance"] if self.distilled else None,
            return_dict=False,
        )
        return unpack(out[0], x)


class ClipAndT5(nn.Module):
    """Prompts to "text", T5's states, and "pooled", CLIP's pooled one.

    Args:
        clip: the CLIP encoder.
        t5: the T5 encoder.
    """

    def __init__(self, clip: Reader, t5: Reader) -> None:
        super().__init__()
        self.clip, self.t5 = clip, t5

    def forward(self, prompts: Sequence[str]) -> Condition:
        """The condition of some prompts, one row each."""
        pooled = self.clip.read(prompts).pooled
        assert pooled is not None  # CLIP has one
        return Condition({"text": self.t5.read(prompts).hidden, "pooled": pooled})


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a FluxPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, FluxTransformer2DModel
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

    trained = checkpoint.scheduler(Rectified)._replace(inputs=Linear(1))
    first = checkpoint.network("text_encoder", CLIPTextModel)
    second = checkpoint.network("text_encoder_2", T5EncoderModel)
    network = checkpoint.network("transformer", FluxTransformer2DModel)
    autoencoder = checkpoint.network("vae", AutoencoderKL, AutoencoderTiny)
    config = network.config
    checkpoint.fit(
        ("transformer's pooled_projection_dim", config.pooled_projection_dim,
         "text_encoder's hidden_size", first.config.hidden_size),
        ("transformer's joint_attention_dim", config.joint_attention_dim,
         "text_encoder_2's d_model", second.config.d_model),
        ("transformer's in_channels", config.in_channels,
         "vae's latent_channels times 4", 4 * autoencoder.config.latent_channels),
    )  # fmt: skip
    with checkpoint.explained():
        text = ClipAndT5(
            clip(first, checkpoint.tokenizer("tokenizer", CLIPTokenizer)),
            Reader(
                second,
                checkpoint.tokenizer("tokenizer_2", T5Tokenizer),
                length=LENGTHS[bool(config.guidance_embeds)],
                masked=False,
            ),
        )
        score = FluxScore(network, trained, autoencoder_shape(autoencoder))
    codec = KLCodec(autoencoder, patch=PATCH)
    return GuidancePrior(score, codec, text, guidance=GUIDANCE if score.distilled else None)
