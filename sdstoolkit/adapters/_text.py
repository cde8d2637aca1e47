"""Prompts to hidden states: a tokenizer with its encoder, whatever the two are.

    hidden = encoder(tokens of the prompt, padding)   [n, length, width]

A prompt that is longer than the encoder takes, and a word that it was never taught, are errors
where the pipelines would cut and go on.
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from sdstoolkit.condition import Condition

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Reading(NamedTuple):
    """What an encoder makes of some prompts.

    Attributes:
        hidden: [n, length, width].
        pooled: one vector a prompt, [n, width]; None where the encoder has none.
        mask: which tokens are the prompt's and not padding, bool [n, length].
    """

    hidden: Tensor
    pooled: Tensor | None
    mask: Tensor


class Reader(nn.Module):
    """A text encoder and its tokenizer.

        hidden = encoder(tokens)[layer]   [n, length, width]

    A word that the encoder has never been taught is an error: one with a token that is the
    tokenizer's unknown one, or whose row of the token embedding is exactly zero.

    Args:
        encoder: of transformers.
        tokenizer: its own.
        length: tokens that prompts are padded to; the tokenizer's if None.
        layer: which hidden states: None for the last with its norm, -2 for the last but one.
        masked: whether the encoder is told what is padding.
        prepare: what a prompt goes through first, a template or lower case; a prompt starts being
            the user's where `prepare` puts it.

    Raises:
        ValueError: the tokenizer's length or vocabulary is larger than the encoder's.
    """

    encoder: Any  # of transformers, which is not imported to name a type

    def __init__(
        self,
        encoder: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        length: int | None = None,
        layer: int | None = None,
        masked: bool = True,
        prepare: Callable[[str], str] = str,
    ) -> None:
        super().__init__()
        self.encoder, self.tokenizer = encoder, tokenizer
        self.length = tokenizer.model_max_length if length is None else length
        self.layer, self.masked, self.prepare = layer, masked, prepare
        self.words: dict[str, str] = {}  # a word of more than one token, and all of them
        config = encoder.config
        most = getattr(config.get_text_config(), "max_position_embeddings", None)
        if most is not None and self.length > most:
            raise ValueError(
                f"The tokenizer pads to {self.length} tokens, expected no more than the text"
                f" encoder's {most}."
            )
        rows = len(encoder.get_input_embeddings().weight)
        if len(tokenizer) > rows:
            raise ValueError(
                f"The tokenizer has {len(tokenizer)} tokens, expected no more than the text"
                f" encoder's {rows}."
            )

    @cached_property
    def unknown(self) -> set[int]:
        """The tokens that the encoder was never taught; padding is none of them."""
        table = self.encoder.get_input_embeddings().weight
        unknown = set((table == 0).all(dim=1).nonzero().flatten().tolist())
        special = (self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, None)
        unknown -= {self.tokenizer.pad_token_id}
        if self.tokenizer.unk_token_id not in special:
            unknown.add(self.tokenizer.unk_token_id)
        return unknown

    def read(self, prompts: Sequence[str]) -> Reading:
        """The encoder's hidden states, one row a prompt.

        Raises:
            ValueError: a prompt is longer than the encoder takes, or has words it does not know.
        """
        texts = [self.prepare(prompt) for prompt in prompts]
        for word, tokens in self.words.items():
            texts = [text.replace(word, tokens) for text in texts]
        for prompt, text in zip(prompts, texts, strict=True):
            self._check(prompt, text)
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.length,
            truncation=True,
            padding_side="right",
            return_tensors="pt",
        )
        device = self.encoder.device
        mask = tokens.attention_mask.to(device)
        with torch.no_grad():
            out = self.encoder(
                input_ids=tokens.input_ids.to(device),
                attention_mask=mask if self.masked else None,
                output_hidden_states=self.layer is not None,
            )
        hidden = out.last_hidden_state if self.layer is None else out.hidden_states[self.layer]
        pooled = getattr(out, "text_embeds", None)
        if pooled is None:
            pooled = getattr(out, "pooler_output", None)
        return Reading(hidden, pooled, mask.bool())

    def _check(self, prompt: str, text: str) -> None:
        tokens = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        spans = [
            span
            for token, span in zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)
            if token in self.unknown
        ]
        if spans:
            words = [
                word.group()
                for word in re.finditer(r"[\w']+|[^\w\s']+", text)
                if any(start < word.end() and word.start() < end for start, end in spans)
            ]
            words = words or [text[start:end] for start, end in spans]
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


class Text(nn.Module):
    """One encoder's hidden states as a condition, "text" [n, length, width].

    Args:
        reader: the encoder.
        mask: whether the condition holds which tokens are padding, "mask" bool [n, length].
    """

    def __init__(self, reader: Reader, *, mask: bool = False) -> None:
        super().__init__()
        self.reader, self.mask = reader, mask

    def forward(self, prompts: Sequence[str]) -> Condition:
        """The condition of some prompts, one row each; "" is the unconditional one."""
        reading = self.reader.read(prompts)
        return Condition({"text": reading.hidden} | ({"mask": reading.mask} if self.mask else {}))


def clip(
    encoder: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", layer: int | None = None
) -> Reader:
    """The reader of a CLIP text encoder, which is told of padding only where its config says so.

    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021,
    https://arxiv.org/abs/2103.00020.
    """
    masked = getattr(encoder.config, "use_attention_mask", False)
    return Reader(encoder, tokenizer, layer=layer, masked=bool(masked))


def lowered(prompt: str) -> str:
    """A prompt as the T5 models were trained on: lower case, without blanks at its ends."""
    return prompt.lower().strip()
