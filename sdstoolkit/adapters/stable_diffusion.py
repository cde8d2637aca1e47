"""Stable Diffusion 1.x and 2.x: a latent model with a CLIP text condition.

    out = UNet(x_t, k, text),  k = t (T - 1),  x_t = alpha_k x_0 + sigma_k eps,  x_0 = E(image)

What `out` is (epsilon, v or sample) and the table, zero-terminal-SNR ones too, are read from the
scheduler's config; the scheduler itself is not used. `text` is the last hidden state of the text
encoder for a prompt padded to the tokenizer's length: exactly what StableDiffusionPipeline passes
on. Version 2 reads its penultimate layer because its encoder is saved without the last one.

References:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2021,
    https://arxiv.org/abs/2112.10752
    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021,
    https://arxiv.org/abs/2103.00020
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters.unet_2d import image_shape
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Discrete, NoiseLevel
from sdstoolkit.prediction import Parameterization
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

PIPELINES = ("StableDiffusionPipeline",)
UNSUPPORTED = (  # config keys of networks that need more than x_t, k and text
    "time_cond_proj_dim",
    "class_embed_type",
    "addition_embed_type",
    "encoder_hid_dim_type",
)
POOLED_TEXT = ("addition_embed_type", "text")  # the one that pools the text it is given anyway


class StableDiffusionScore(ScoreModel):
    """A UNet2DConditionModel and the table it was trained on.

        out = UNet(x_t, k, text),   k = t (T - 1)

    k is a float: between two entries of the table it is as smooth as the network. The condition
    has one tensor, "text" [n, tokens, width]. One network evaluation a row.

    Args:
        network: a diffusers UNet2DConditionModel.
        schedule: its table.
        parameterization: what it returns.
    """

    schedule: Discrete

    def __init__(
        self, network: nn.Module, *, schedule: Discrete, parameterization: Parameterization
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self.shape = image_shape(network)

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """UNet(x_t, k, text), as `ScoreModel.output`."""
        if condition is None or set(condition) != {"text"}:
            given = ", ".join(condition) if condition else "none"
            raise ValueError(
                f"The condition has {given}, expected text: give prior.condition('...'), or"
                " prior.condition('') for the unconditional model."
            )
        k = self.schedule.timestep(level.t).to(x_t.device, torch.float32)
        return self.network(x_t, k, condition["text"], return_dict=False)[0]


class ClipText(nn.Module):
    """Prompts to the last hidden state of a CLIP text encoder.

        text = CLIP(begin, tokens of the prompt, end, padding)   [n, length, width]

    A word that the encoder has never been taught is an error: one with a token that is the
    tokenizer's unknown one, or whose row of the token embedding is exactly zero.

    Args:
        encoder: a transformers CLIPTextModel.
        tokenizer: its CLIPTokenizer.

    Raises:
        ValueError: the tokenizer's length or vocabulary is larger than the encoder's.
    """

    def __init__(self, encoder: "CLIPTextModel", tokenizer: "CLIPTokenizer") -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.length = tokenizer.model_max_length
        config, table = encoder.config, encoder.get_input_embeddings().weight
        if self.length > config.max_position_embeddings:
            raise ValueError(
                f"The tokenizer pads to {self.length} tokens, expected no more than the text"
                f" encoder's {config.max_position_embeddings}."
            )
        if len(tokenizer) > len(table):
            raise ValueError(
                f"The tokenizer has {len(tokenizer)} tokens, expected no more than the text"
                f" encoder's {len(table)}."
            )
        self.unknown = set((table == 0).all(dim=1).nonzero().flatten().tolist())
        if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.pad_token_id, None):
            self.unknown.add(tokenizer.unk_token_id)

    def forward(self, prompts: Sequence[str]) -> Condition:
        """The condition of some prompts, one row each.

        Args:
            prompts: any text; "" is the unconditional one.

        Raises:
            ValueError: a prompt is longer than the encoder takes, or has words it does not know.
        """
        for prompt in prompts:
            self._check(prompt)
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.length,
            truncation=True,
            return_tensors="pt",
        )
        device = self.encoder.device
        mask = None
        if getattr(self.encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(device)
        with torch.no_grad():
            text = self.encoder(tokens.input_ids.to(device), attention_mask=mask)[0]
        return Condition({"text": text})

    def _check(self, prompt: str) -> None:
        tokens = self.tokenizer(
            prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        spans = [
            span
            for token, span in zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)
            if token in self.unknown
        ]
        if spans:
            words = [
                word.group()
                for word in re.finditer(r"[\w']+|[^\w\s']+", prompt)
                if any(start < word.end() and word.start() < end for start, end in spans)
            ]
            words = words or [prompt[start:end] for start, end in spans]
            listed = ", ".join(repr(word) for word in dict.fromkeys(words))
            raise ValueError(
                f"The prompt {prompt!r} has words that the text encoder does not know: {listed}."
            )
        count = len(tokens["input_ids"]) + self.tokenizer.num_special_tokens_to_add()
        if count > self.length:
            raise ValueError(
                f"The prompt {prompt!r} has {count} tokens with its begin and end, expected at"
                f" most {self.length}: shorten it."
            )


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a StableDiffusionPipeline folder; its safety checker is not opened.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    schedule, parameterization = checkpoint.scheduler()
    config = checkpoint.config("unet")
    for key in UNSUPPORTED:
        if config.get(key) is not None and (key, config[key]) != POOLED_TEXT:
            raise ValueError(
                f"The unet of {checkpoint.name!r} has {key}={config[key]!r}, expected none."
            )
    tokenizer = checkpoint.tokenizer("tokenizer", CLIPTokenizer)
    encoder = checkpoint.network("text_encoder", CLIPTextModel)
    network = checkpoint.network("unet", UNet2DConditionModel)
    autoencoder = checkpoint.network("vae", AutoencoderKL, AutoencoderTiny)
    for ours, value, theirs, other in (
        ("unet's cross_attention_dim", network.config.cross_attention_dim,
         "text_encoder's hidden_size", encoder.config.hidden_size),
        ("unet's in_channels", network.config.in_channels,
         "vae's latent_channels", autoencoder.config.latent_channels),
    ):  # fmt: skip
        if value != other:
            raise ValueError(
                f"The components of {checkpoint.name!r} do not fit: the {ours} is {value} and the"
                f" {theirs} is {other}."
            )
    try:
        text = ClipText(encoder, tokenizer)
        score = StableDiffusionScore(network, schedule=schedule, parameterization=parameterization)
    except ValueError as error:
        raise ValueError(f"{checkpoint.name!r} cannot be opened: {error}") from None
    return Prior(score, KLCodec(autoencoder), text)
