"""Checkpoints of what is being optimised: complete, or not there, and known by their hash.

    folder/.checkpoints/{first seed}-{step}-{16 digits of the file's SHA-256}.safetensors

A file is written beside its name, flushed and renamed; the last two of a group of seeds are kept,
so that one that cannot be read costs the time since the one before it and nothing else. What is
read is safetensors whose hash is the one in its name.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sdstoolkit._files import write_atomically

__all__ = ["FOLDER", "Checkpoint", "clear", "groups", "latest", "save"]

FOLDER = ".checkpoints"
KEPT = 2
_NAME = re.compile(r"(\d+)-(\d+)-([0-9a-f]{16})\.safetensors")


class Checkpoint(NamedTuple):
    """A state on the way.

    Attributes:
        seeds: Of the rows.
        step: How many steps were made.
        tensors: All of the state, by name.
    """

    seeds: tuple[int, ...]
    step: int
    tensors: dict[str, Tensor]


def save(out: Path, seeds: Sequence[int], step: int, tensors: Mapping[str, Tensor]) -> Path:
    """Write a checkpoint, and remove all but the last two of these seeds.

    Args:
        out: The folder of the run.
        seeds: Of the rows; the first one names the group.
        step: How many steps were made.
        tensors: The state by name.
    """
    from safetensors.torch import save as to_bytes

    data = to_bytes(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={"seeds": json.dumps(list(seeds)), "step": str(step)},
    )
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(data).hexdigest()[:16]
    path = write_atomically(folder / f"{seeds[0]}-{step:08d}-{digest}.safetensors", data)
    for old in _of(out, seeds[0])[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def latest(out: Path, seed: int) -> Checkpoint | None:
    """The last checkpoint of a group that is whole; None if there is none.

    Args:
        out: The folder of the run.
        seed: The first one of the group.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load

    for path in reversed(_of(out, seed)):
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest()[:16] != path.stem.rpartition("-")[2]:
                continue
            with safe_open(path, framework="pt") as file:
                about = file.metadata()
            seeds = tuple(json.loads(about["seeds"]))
            return Checkpoint(seeds, int(about["step"]), load(data))
        except (OSError, SafetensorError, KeyError, ValueError):
            continue
    return None


def groups(out: Path) -> list[Checkpoint]:
    """The last whole checkpoint of every group in a folder, by its first seed."""
    firsts = {int(found[1]) for found in map(_parts, _files(out)) if found}
    found = (latest(out, first) for first in sorted(firsts))
    return [checkpoint for checkpoint in found if checkpoint is not None]


def clear(out: Path, seed: int) -> None:
    """Remove the checkpoints of a group, and the folder with the last of them."""
    for path in _of(out, seed):
        path.unlink(missing_ok=True)
    folder = out / FOLDER
    if folder.is_dir() and not any(folder.iterdir()):
        try:
            folder.rmdir()
        except OSError:  # another process has just written one
            return


def _files(out: Path) -> list[Path]:
    folder = out / FOLDER
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _parts(path: Path) -> re.Match[str] | None:
    return _NAME.fullmatch(path.name)


def _of(out: Path, seed: int) -> list[Path]:
    """The checkpoints of a group, by step."""
    found = [(path, _parts(path)) for path in _files(out)]
    mine = [(int(parts[2]), path) for path, parts in found if parts and int(parts[1]) == seed]
    return [path for _, path in sorted(mine)]

