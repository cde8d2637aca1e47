"""Small files that change a pretrained model: LoRAs and textual inversions.

    W <- W + scale B A            every weight that a LoRA has a pair (A, B) of low rank for
    embedding(word) <- vectors    one token a vector

A LoRA is read and added by diffusers' own loader of the model's family, through peft, and is part
of the weights from then on: a network evaluation costs what it did.

References:
    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021,
    https://arxiv.org/abs/2106.09685
    Gal et al., An Image is Worth One Word, 2022, https://arxiv.org/abs/2208.01618
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._text import Reader
from sdstoolkit.prior import Prior

NETWORKS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True)
class LoRA:
    """A low-rank addition to the weights, W <- W + scale B A.

    Args:
        source: a .safetensors file, a folder with one, or a hub name.
        scale: how much of it.

    Raises:
        ValueError: the scale is not finite.
    """

    source: str | PathLike[str]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"The scale of the LoRA {self.source!r} is {self.scale}.")

    @classmethod
    def of(cls, given: "str | PathLike[str] | LoRA") -> "LoRA":
        """The LoRA that was given by itself or by its source."""
        return given if isinstance(given, LoRA) else cls(given)


@dataclass(frozen=True)
class Token:
    """A textual inversion: a word with embeddings of its own.

    Args:
        source: a .safetensors file.
        word: what it is called in a prompt; what the file says if None.
    """

    source: str | PathLike[str]
    word: str | None = None

    @classmethod
    def of(cls, given: "str | PathLike[str] | Token") -> "Token":
        """The token that was given by itself or by its source."""
        return given if isinstance(given, Token) else cls(given)


def fuse(
    checkpoint: Checkpoint, prior: Prior, loras: Sequence[LoRA], local_files_only: bool
) -> None:
    """Add LoRAs to the weights of a checkpoint's networks, one after the other.

    Raises:
        ValueError: the family has no LoRAs, or a file does not exist, is no LoRA, or is of another
            model.
    """
    if not loras:
        return
    import diffusers

    name = checkpoint.index["_class_name"]
    family: Any = getattr(diffusers, name)
    if not hasattr(family, "load_lora_weights"):
        raise ValueError(f"{name} takes no LoRAs, and {len(loras)} were given.")
    pipeline = family.__new__(family)  # its loader alone: no scheduler, no checks of its own
    expected, _ = pipeline._get_signature_keys(pipeline)
    pipeline.register_modules(**{key: checkpoint.opened.get(key) for key in expected})
    score: Any = prior.score
    for lora in loras:
        source = fspath(lora.source)
        path = Path(source).expanduser()
        if path.is_file() and path.suffix != ".safetensors":
            raise ValueError(f"The LoRA {source!r} is a {path.suffix} file, not safetensors.")
        try:
            pipeline.load_lora_weights(
                str(path) if path.exists() else source,
                adapter_name="added",
                use_safetensors=True,
                local_files_only=local_files_only,
            )
        except Exception as error:  # whatever the libraries raise here, it is the file's fault
            line = str(error).strip().partition("\n")[0].rstrip(".")
            raise ValueError(
                f"The LoRA {source!r} cannot be added to {checkpoint.name!r}:"
                f" {type(error).__name__}: {line}."
            ) from None
        touched = [key for key in pipeline.get_list_adapters() if key in NETWORKS]
        if not touched:
            raise ValueError(f"The LoRA {source!r} has no weights of {name}.")
        pipeline.fuse_lora(components=touched, lora_scale=lora.scale)
        pipeline.unload_lora_weights()
        for key in touched:
            checkpoint.opened[key].requires_grad_(False).eval()
        score.additions.append(f"LoRA {path.name} at {lora.scale:g}")


def teach(prior: Prior, tokens: Sequence[Token]) -> None:
    """Teach words to the text encoders of a prior.

    Raises:
        ValueError: the prior reads no prompts, a file is no textual inversion, no encoder has its
            width, or a word is known already.
    """
    for token in tokens:
        source = fspath(token.source)
        word, vectors = _inversion(Path(source).expanduser(), token.word)
        modules = prior.text.modules() if isinstance(prior.text, torch.nn.Module) else ()
        readers = [module for module in modules if isinstance(module, Reader)]
        fitting = [
            (reader, tensor)
            for reader in readers
            for tensor in vectors
            if tensor.shape[1] == reader.encoder.get_input_embeddings().embedding_dim
        ]
        if not fitting:
            widths = ", ".join(str(tensor.shape[1]) for tensor in vectors)
            raise ValueError(
                f"The textual inversion {source!r} is of width {widths}, which no text encoder of"
                " this model has."
            )
        for reader, tensor in fitting:
            _add(reader, word, tensor)
        score: Any = prior.score
        score.additions.append(f"word {word} of {Path(source).name}")


def _inversion(path: Path, word: str | None) -> tuple[str, list[Tensor]]:
    """The word of a textual inversion and its vectors, [k, width] each, one an encoder."""
    from safetensors.torch import load_file

    if not (path.is_file() and path.suffix == ".safetensors"):
        raise ValueError(f"There is no textual inversion {str(path)!r}: expected a .safetensors.")
    held: Mapping[str, Tensor] = load_file(path)
    vectors = [v[None] if v.ndim == 1 else v for v in held.values() if v.ndim in (1, 2)]
    if len(vectors) != len(held) or not vectors or not all(v.isfinite().all() for v in vectors):
        raise ValueError(f"{str(path)!r} holds no textual inversion: {', '.join(sorted(held))}.")
    own = next(iter(held)) if len(held) == 1 and "emb_params" not in held else path.stem
    return word or own, vectors


def _add(reader: Reader, word: str, vectors: Tensor) -> None:
    """Give a word to a tokenizer and its vectors to the encoder, one token a vector."""
    tokenizer, encoder = reader.tokenizer, reader.encoder
    names = [word, *(f"{word}_{i}" for i in range(1, len(vectors)))]
    if set(names) & set(tokenizer.get_vocab()):
        raise ValueError(f"The word {word!r} is known to the text encoder already; name another.")
    tokenizer.add_tokens(names)
    if len(tokenizer) > len(encoder.get_input_embeddings().weight):
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        rows = tokenizer.convert_tokens_to_ids(names)
        table[rows] = vectors.to(table)
    encoder.requires_grad_(False)
    for module in encoder.modules():  # CLIP looks for the end by its id, or else by the highest
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = tokenizer.eos_token_id
    reader.words[word] = " ".join(names)
