"""Stable Diffusion XL, base and refiner: two text encoders and the size of the image.

    out = UNet(c_in x_t, c_noise, text, (pooled, sizes))

`text` is the last but one hidden state of both CLIP encoders side by side, `pooled` the projected
one of the second; the refiner has the second encoder only. `sizes` are

    base      (h_0, w_0, top, left, h, w)         refiner   (h_0, w_0, top, left, aesthetic)

the original size of a training image, the crop taken of it and the size asked for; here h_0 = h,
w_0 = w and no crop unless told otherwise, as in the pipeline. The aesthetic score is 6 with a
prompt and 2.5 without. Where the folder asks for it the null prompt is zeros and not an encoded ""
(" " is the encoded one). CosXL and Playground 2.5 are this family with an EDM scheduler.

References:
    Podell et al., SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis,
    2023, https://arxiv.org/abs/2307.01952
    Li et al., Playground v2.5, 2024, https://arxiv.org/abs/2402.17245
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import NetworkScore, Trained, latent_shape
from sdstoolkit.adapters._text import Reader, clip
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.noise import EDM, VE, Discrete
from sdstoolkit.prior import Prior

PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
TAKES = "a prompt"
EXAMPLES = (
    "stabilityai/stable-diffusion-xl-base-1.0",
    "stabilityai/stable-diffusion-xl-refiner-1.0",
)
AESTHETIC = (6.0, 2.5)  # with a prompt, without one


class StableDiffusionXLScore(NetworkScore):
    """A UNet2DConditionModel that is told the pooled text and sizes.

        out = UNet(c_in x_t, c_noise, text, (pooled, sizes))

    The condition has "text" [n, tokens, width] and "pooled" [n, width]; of a refiner "aesthetic"
    [n, 1] too; "sizes" (h_0, w_0, top, left), int [n, 4], where they are not the image's own. One
    network evaluation a row.

    Args:
        network: the diffusers model.
        trained: what it was trained on.
        shape: of one sample.
        multiple: the ratio of an image's size to x_t's.
        refiner: whether it is told an aesthetic score, instead of the size asked for.
    """

    may_take = ("sizes",)

    def __init__(
        self,
        network: nn.Module,
        trained: Trained,
        shape: Sequence[int],
        *,
        multiple: int,
        refiner: bool,
    ) -> None:
        super().__init__(network, trained, shape)
        self.multiple, self.refiner = multiple, refiner
        self.takes = ("text", "pooled", *(("aesthetic",) if refiner else ()))

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """UNet(c_in x_t, c_noise, text, (pooled, sizes))."""
        h, w = (size * self.multiple for size in x.shape[-2:])
        wanted = torch.tensor([h, w, 0, 0], device=x.device).expand(len(x), 4)
        sizes = condition.get("sizes", wanted).float()
        last = condition["aesthetic"].float() if self.refiner else wanted[:, :2].float()
        told = {"text_embeds": condition["pooled"], "time_ids": torch.cat([sizes, last], dim=1)}
        out = self.network(x, noise, condition["text"], added_cond_kwargs=told, return_dict=False)
        return out[0]


class TwoClips(nn.Module):
    """Prompts to "text" and "pooled": hidden states side by side, the last encoder's pooled one.

    Args:
        readers: one or two CLIP encoders, of which the last projects.
    """

    readers: Any  # an nn.ModuleList of them

    def __init__(self, *readers: Reader) -> None:
        super().__init__()
        self.readers = nn.ModuleList(readers)

    def forward(self, prompts: Sequence[str]) -> Condition:
        """The condition of some prompts, one row each."""
        readings = [reader.read(prompts) for reader in self.readers]
        text = torch.cat([reading.hidden for reading in readings], dim=-1)
        return Condition({"text": text, "pooled": readings[-1].pooled})


class StableDiffusionXLPrior(Prior):
    """A prior that may be told the sizes of a training image and, a refiner, its looks.

    Args:
        score, codec, text: as `Prior`.
        zeros: whether the null prompt is zeros.
    """

    score: StableDiffusionXLScore

    def __init__(
        self, score: StableDiffusionXLScore, codec: KLCodec, text: nn.Module, *, zeros: bool
    ) -> None:
        super().__init__(score, codec, text)
        self.zeros = zeros

    def condition(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        label: int | Sequence[int] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        hint: Tensor | None = None,
        original: tuple[int, int] | None = None,
        crop: tuple[int, int] | None = None,
        aesthetic: float | None = None,
    ) -> Condition:
        """What the network is told, as `Prior.condition`, with micro-conditions.

        `original` is height and width of the training image that it is told of, the image's own
        if None; `crop` is top and left of what was cut out of that, with `original` only, (0, 0)
        if None. `aesthetic` is how good the image looks to a refiner, 1 to 10; if None, 6 with a
        prompt and 2.5 without one.

        Raises:
            ValueError: as `Prior.condition`; a crop without a size, or an aesthetic score for a
                model that knows none.
        """
        told = super().condition(prompt, label=label, image=image, mask=mask, hint=hint)
        more: dict[str, Tensor] = {}
        if original is not None:
            sizes = torch.tensor([*original, *(crop or (0, 0))])
            more["sizes"] = sizes.expand(told.rows, 4)
        elif crop is not None:
            raise ValueError(f"crop={crop} came without original=(height, width); give both.")
        if self.score.refiner:
            texts = [prompt or ""] if prompt is None or isinstance(prompt, str) else prompt
            scores = [AESTHETIC[not text] if aesthetic is None else aesthetic for text in texts]
            more["aesthetic"] = torch.tensor(scores)[:, None]
        elif aesthetic is not None:
            raise ValueError(f"aesthetic={aesthetic} was given, which only a refiner is told.")
        more = {key: value.to(told["text"].device) for key, value in more.items()}
        return Condition({**told, **more})

    def _encode(self, prompt: str) -> Condition:
        told = super()._encode(prompt)
        if prompt or not self.zeros:
            return told
        return Condition({key: torch.zeros_like(value) for key, value in told.items()})


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a folder of Stable Diffusion XL, its refiner or a model like it.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    trained = checkpoint.scheduler(Discrete, VE, EDM)
    checkpoint.expect("unet", {"addition_embed_type": "text_time", "class_embed_type": None})
    both = checkpoint.has("text_encoder")
    first = checkpoint.network("text_encoder", CLIPTextModel) if both else None
    second = checkpoint.network("text_encoder_2", CLIPTextModelWithProjection)
    network = checkpoint.network("unet", UNet2DConditionModel)
    autoencoder = checkpoint.network("vae", AutoencoderKL, AutoencoderTiny, overflows=True)
    refiner = bool(checkpoint.index.get("requires_aesthetics_score", False))
    width = second.config.hidden_size + (0 if first is None else first.config.hidden_size)
    sizes = network.config.addition_time_embed_dim * (5 if refiner else 6)
    checkpoint.fit(
        ("unet's cross_attention_dim", network.config.cross_attention_dim,
         "text encoders' hidden_size", width),
        ("unet's projection_class_embeddings_input_dim",
         network.config.projection_class_embeddings_input_dim,
         "width of the pooled text and the sizes", second.config.projection_dim + sizes),
        ("unet's in_channels", network.config.in_channels,
         "vae's latent_channels", autoencoder.config.latent_channels),
    )  # fmt: skip
    with checkpoint.explained():
        readers = [
            clip(encoder, checkpoint.tokenizer(name, CLIPTokenizer), layer=-2)
            for encoder, name in ((first, "tokenizer"), (second, "tokenizer_2"))
            if encoder is not None
        ]
        codec = KLCodec(autoencoder)
        shape = latent_shape(network, autoencoder)
        score = StableDiffusionXLScore(
            network, trained, shape, multiple=codec.multiple, refiner=refiner
        )
    zeros = bool(checkpoint.index.get("force_zeros_for_empty_prompt", True))
    return StableDiffusionXLPrior(score, codec, TwoClips(*readers), zeros=zeros)
