"""How a verb opens its model: what is added to the weights, and memory and speed.

They are the arguments of `load`, which says what each of them does.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

if TYPE_CHECKING:
    from sdstoolkit.adapters import LoRA, Token
    from sdstoolkit.prior import Prior
    from sdstoolkit.score import ScoreModel

Flag = tyro.conf.FlagCreatePairsOff[bool]
MEMORY = ("checkpointing", "channels_last", "compile", "text_on_cpu", "layers_on_cpu")


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True, kw_only=True)
class Loading:
    """How the model is opened."""

    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1, ...; auto is a GPU if there is one."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Numbers the networks compute in; states keep their own precision."""
    loras: tuple[str, ...] = ()
    """LoRAs to add: files, folders or hub names; PATH=0.7 adds that share of one."""
    tokens: tuple[str, ...] = ()
    """Textual inversions to learn: .safetensors files; FILE=WORD calls one so."""
    autoencoder: str = ""
    """Another autoencoder for the same latents, such as a tiny one: a folder or a hub name."""
    variant: str = ""
    """The variant of the weight files, such as fp16."""
    revision: str = ""
    """A branch, a tag or a commit of the hub's repository."""
    checkpointing: Flag = False
    """Compute the encoder's activations again on the way back: less memory, more time."""
    channels_last: Flag = False
    """Keep the channels of convolutions last, which is faster on GPUs."""
    compile: Flag = False
    """Compile the network at its first call; needs a C++ compiler or CUDA."""
    text_on_cpu: Flag = False
    """Leave the text encoders on the CPU."""
    layers_on_cpu: Flag = False
    """Leave the network's layers there too, each coming to the GPU for its turn: slow."""

    def open(self, model: str) -> "Prior":
        """The model of a name or a folder, as these options want it; errors are `load`'s."""
        import torch

        from sdstoolkit import load
        from sdstoolkit.jobs import pick_device

        return load(
            model,
            device=pick_device(self.device),
            dtype=getattr(torch, self.dtype),
            loras=[_lora(text) for text in self.loras],
            tokens=[_token(text) for text in self.tokens],
            autoencoder=self.autoencoder or None,
            variant=self.variant or None,
            revision=self.revision or None,
            **{name: getattr(self, name) for name in MEMORY},
        )

    def facts(self, prior: "Prior", model: "ScoreModel | None" = None) -> dict[str, Any]:
        """Where and with what a run computes, for its manifest; with the model as it is guided."""
        import torch

        about = (model or prior.score).describe()
        return {"device": str(prior.device), "threads": torch.get_num_threads(), "model": about}

    def decides(self) -> dict[str, Any]:
        """Those that were given and decide on an image; files are known by their contents."""
        from sdstoolkit.runs import named

        given = {k: v for k, v in asdict(self).items() if v and k not in (*MEMORY, "device")}
        for name in ("loras", "tokens"):
            if name in given:
                parts = map(_split, given[name])
                given[name] = [
                    (named(path) if Path(path).is_file() else path) + (then and f"={then}")
                    for path, then in parts
                ]
        return given


def _split(text: str) -> tuple[str, str]:
    """PATH=REST as (PATH, REST), and anything else as (text, "")."""
    path, found, rest = text.rpartition("=")
    return (path, rest) if found and not Path(text).exists() else (text, "")


def _lora(text: str) -> "LoRA":
    from sdstoolkit.adapters import LoRA

    path, scale = _split(text)
    try:
        return LoRA(path, float(scale or 1))
    except ValueError as error:
        raise ValueError(f"--loras is {text!r}, expected PATH or PATH=SCALE: {error}") from None


def _token(text: str) -> "Token":
    from sdstoolkit.adapters import Token

    path, word = _split(text)
    return Token(path, word or None)
