"""A part of a job, and what to do where it does not fit into memory: half of it."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from sdstoolkit import checkpoints
from sdstoolkit.processes import is_out_of_memory

if TYPE_CHECKING:
    from sdstoolkit.jobs import Job

__all__ = ["Part"]


class Part:
    """Some seeds of a job; ``with`` it they are made, or put back where memory is short.

    Args:
        job: Whose seeds they are.
        seeds: At least one.

    Attributes:
        size: How many are made at a time from here on.
    """

    def __init__(self, job: "Job", seeds: tuple[int, ...]) -> None:
        self.job, self.seeds, self.size = job, seeds, len(seeds)

    def __enter__(self) -> tuple[int, ...]:
        return self.seeds

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is None or not is_out_of_memory(error) or self.size == 1:
            return False
        self.size //= 2
        checkpoints.clear(self.job.out, self.seeds[0])
        self.job.note(batch_size=self.size)
        many = f"{len(self.seeds)} images do not fit into memory"
        print(f"{many}, going on with {self.size}", file=sys.stderr)
        torch.cuda.empty_cache()  # nothing where there is no CUDA
        return True
