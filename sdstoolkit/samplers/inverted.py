"""An inversion as a value: everything that the way back needs, in one file.

    x_0  --flow up the grid-->  x_T, companion  --down the same grid-->  x_0

An exactly reversible solver walks two states, and "exact" is lost if the companion is not kept.
Nor does x_T mean anything without the grid, the condition and the model that it was made with.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sdstoolkit._files import write_atomically
from sdstoolkit._typing import State
from sdstoolkit.condition import Condition

__all__ = ["Inverted", "fingerprint"]

_FORMAT = "sdstoolkit.inverted/1"


@dataclass(frozen=True, kw_only=True)
class Inverted:
    """What an inversion found, x_T = Phi(x_0), and how.

    Attributes:
        x_0: what was inverted, [n, *shape].
        x_T: the state at the last time, [n, *shape]; N(0, sigma_T^2) for an image that the model
            finds likely.
        companion: the solver's memory, in its own units; empty for most solvers.
        grid: times from the data to the noise, float64 [steps + 1] on the CPU.
        condition: what the network was told, or None.
        model: the model's description of itself, guidance included.
        base: fingerprint of the network's weights.
        solver: the solver's description of itself.
        seed: the seeds of the rows, where the caller had some.
    """

    x_0: State
    x_T: State
    companion: tuple[Tensor, ...] = ()
    grid: Tensor
    condition: Condition | None = None
    model: Mapping[str, object] = field(default_factory=dict)
    base: str = ""
    solver: Mapping[str, object] = field(default_factory=dict)
    seed: tuple[int, ...] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the state."""
        return self.x_T.dtype

    def to(self, device: torch.device | str) -> "Inverted":
        """The same on another device; the grid stays on the CPU.

        Args:
            device: where to.
        """
        condition = None if self.condition is None else self.condition.to(device)
        companion = tuple(v.to(device) for v in self.companion)
        return Inverted(
            **vars(self)
            | {"x_0": self.x_0.to(device), "x_T": self.x_T.to(device)}
            | {"companion": companion, "condition": condition}
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file, complete or not at all.

        Args:
            path: where to; an existing file is replaced.

        Raises:
            FileNotFoundError: the folder does not exist.
        """
        from safetensors.torch import save

        tensors = {"x_0": self.x_0, "x_T": self.x_T, "grid": self.grid}
        tensors |= {f"companion.{i}": v for i, v in enumerate(self.companion)}
        tensors |= {f"condition.{k}": v for k, v in (self.condition or {}).items()}
        about = {
            "conditioned": self.condition is not None,
            "model": self.model,
            "base": self.base,
            "solver": self.solver,
            "seed": self.seed,
        }
        metadata = {"format": _FORMAT, "about": json.dumps(about)}
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        return write_atomically(path, save(plain, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Inverted":
        """Read what `save` wrote, onto the CPU.

        Args:
            path: the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is cut short, or not the file of an inversion.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r} to read an inversion from")
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(
                f"{str(path)!r} is not a complete safetensors file ({error}); invert the image "
                "again."
            ) from None
        if metadata.get("format") != _FORMAT or not {"x_0", "x_T", "grid"} <= set(tensors):
            raise ValueError(
                f"{str(path)!r} is a safetensors file, but not one that Inverted.save wrote; give "
                "one of those."
            )
        about = json.loads(metadata["about"])
        companions = sum(k.startswith("companion.") for k in tensors)
        named = {
            k.removeprefix("condition."): v for k, v in tensors.items() if k[:9] == "condition"
        }
        return cls(
            x_0=tensors["x_0"],
            x_T=tensors["x_T"],
            companion=tuple(tensors[f"companion.{i}"] for i in range(companions)),
            grid=tensors["grid"],
            condition=Condition(named) if about["conditioned"] else None,
            model=about["model"],
            base=about["base"],
            solver=about["solver"],
            seed=None if about["seed"] is None else tuple(about["seed"]),
        )


def fingerprint(model: nn.Module) -> str:
    """The SHA-256 of a network's weights and buffers, all of them: dtype, shape and bytes.

    What wraps a network without weights of its own, as guidance does, leaves it as it is. Reads
    the weights once: about a second for two gigabytes.

    Args:
        model: the network.
    """
    digest = hashlib.sha256()
    for tensor in (*model.parameters(), *model.buffers()):
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        plain = tensor.detach().contiguous().flatten().view(torch.uint8).cpu()
        digest.update(plain.numpy().data)
    return digest.hexdigest()
