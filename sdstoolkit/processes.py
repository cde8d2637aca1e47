"""The processes of one launch: which of them this is, and what is its share.

    process r of R takes the seeds r, r + R, r + 2 R, ... of those asked for

An image is its seed's alone, so that it does not matter which process makes it, and processes that
share seeds need not talk while they work; they meet at the beginning and at the end. `torchrun`
and `accelerate launch` set what is read here. `accelerate launch --cpu --num_processes 2` starts
one process, whatever it says; a run that was promised another number refuses to begin.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["Processes", "is_out_of_memory", "join", "pick_device"]

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # a process may wait this long for the slowest one


@dataclass(frozen=True)
class Processes:
    """Which process it is, and how many there are.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
        meets: Whether they wait for one another.
    """

    rank: int = 0
    world: int = 1
    meets: bool = True

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes what all have in common."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> tuple[T, ...]:
        """Every `world`-th item, beginning with this process's number."""
        return tuple(items[self.rank :: self.world])

    def wait(self) -> None:
        """Until all processes are here.

        Raises:
            OSError: One of them has died.
        """
        if self.world == 1 or not self.meets:
            return
        from accelerate import PartialState

        with _alive():
            PartialState().wait_for_everyone()

    def mean(self, vector: Tensor) -> Tensor:
        """The average of a vector over all processes, which wait for one another.

        Raises:
            OSError: One of them has died.
        """
        from accelerate.utils import reduce

        with _alive():
            return reduce(vector, "mean")


def join(asked: int | None = None) -> Processes:
    """The processes of this launch, joined with one another.

    Args:
        asked: How many there must be; None takes the launcher at its word.

    Raises:
        ValueError: There is another number of them than was asked for, here or of the launcher.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    promised = asked if asked is not None else _promised()
    if promised is not None and promised != world:
        raise ValueError(
            f"{promised} processes were asked for and {world} {'was' if world == 1 else 'were'} "
            "started; on CPUs start them with torchrun --standalone --nproc_per_node "
            f"{promised} FILE, see docs/scaling.md"
        )
    if world > 1:
        from accelerate import PartialState

        on_cpu = not torch.cuda.is_available()
        PartialState(cpu=on_cpu, timeout=PATIENCE)
    return Processes(rank, world)


def pick_device(name: str) -> str:
    """A device by name; ``"auto"`` is this process's CUDA device if there is one, else the CPU."""
    if name != "auto":
        return name
    if not torch.cuda.is_available():
        return "cpu"
    local = os.environ.get("LOCAL_RANK")
    return "cuda" if local is None else f"cuda:{int(local) % torch.cuda.device_count()}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may help."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


@contextmanager
def _alive() -> Iterator[None]:
    """What fails inside fails because another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"another process of this run has died: {_first_line(error)}") from error


def _promised() -> int | None:
    """What the line says that `accelerate launch` was started with, if it can be read."""
    if not any(name.startswith("ACCELERATE_") for name in os.environ) or "RANK" in os.environ:
        return None
    try:
        import psutil

        words: Iterable[str] = psutil.Process().parent().cmdline()
    except (ImportError, AttributeError, OSError, RuntimeError):
        return None
    found = re.search(r"accelerate\S*[ .]launch .*--num_processes[= ](\d+)", " ".join(words))
    return int(found[1]) if found else None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
