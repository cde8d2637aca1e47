"""An optimisation on its way: what is read of it now and then, and its checkpoints.

The loss and the images are read at a few moments, never at every step, for a read waits for the
device. A checkpoint holds the state of the optimisation and what was read so far, so that what
goes on from it ends with the same bits, pictures and numbers as if nothing had happened.
"""

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sdstoolkit import checkpoints
from sdstoolkit.canvas import Canvas
from sdstoolkit.optimization import Optimization, Step

__all__ = ["MOMENTS", "READINGS", "Following", "Made", "Tell", "progress", "reading_period"]

READINGS = 50  # how often the loss of an optimisation is read
MOMENTS = 8  # how many of its looks are kept, the first and the last among them

Tell = Callable[[int, float | None], None]
"""Told after every step: how many rows it was for, and the loss if it was read."""


class Made(NamedTuple):
    """What came of one row.

    Attributes:
        seed: Its seed.
        image: The last finite image, [1, c, h, w].
        looks: It at a few moments, [1, c, h, w] each.
        state: "done", "frozen" or "interrupted".
        steps: How many steps it is the result of.
        loss: Its values where they were read, None where one was not finite.
    """

    seed: int
    image: Tensor
    looks: list[Tensor]
    state: str
    steps: int
    loss: list[float | None]


class Following:
    """One optimisation, followed from where its last checkpoint ends.

    Args:
        canvas: One row a seed.
        steps: What `optimize` returns; any other iterator of steps has no checkpoints.
        total: How many steps there are.
        out: The folder of the run.
        every: How many steps apart checkpoints are; 0 writes none at intervals.

    Raises:
        ValueError: An image is not finite before the first step.
    """

    def __init__(
        self, canvas: Canvas, steps: Iterable[Step], *, total: int, out: Path, every: int = 0
    ) -> None:
        self.canvas, self.steps, self.total = canvas, steps, total
        self.out, self.every = out, every
        self.looks = [(0, _look(canvas))]
        self.curve: list[list[float]] = []
        self.done = 0
        self.frozen: Mapping[int, int] = {}
        for seed, image in zip(canvas.seeds, self.looks[0][1], strict=True):
            if not bool(image.isfinite().all()):
                raise ValueError(f"the image of seed {seed} is not finite before the first step")
        found = checkpoints.latest(out, canvas.seeds[0])
        if isinstance(steps, Optimization) and found and found.seeds == tuple(canvas.seeds):
            self._restore(steps, found)

    def run(self, tell: Tell, stopping: Callable[[], bool] = lambda: False) -> None:
        """To the end, or to a KeyboardInterrupt, or until somebody is `stopping` it.

        Raises:
            KeyboardInterrupt: It was stopped, with a checkpoint.
        """
        period = reading_period(self.total)
        if self.done:
            tell(self.done * self.canvas.n, None)
        for step in self.steps:
            self.done, self.frozen = step.index + 1, step.frozen
            is_read = self.done % period == 0
            if is_read:
                self.curve.append(step.values.tolist())
            if self.done * (MOMENTS - 1) % self.total < MOMENTS - 1:
                self.looks.append((self.done, _look(self.canvas)))
            tell(self.canvas.n, step.loss if is_read else None)
            if self.every and self.done % self.every == 0 and self.done < self.total:
                self.checkpoint()
            if stopping():
                self.checkpoint()
                raise KeyboardInterrupt("asked to stop")

    def made(self, *, stopped: bool) -> Iterator[Made]:
        """What came of every row."""
        if self.done > self.looks[-1][0]:
            self.looks.append((self.done, _look(self.canvas)))
        for row, seed in enumerate(self.canvas.seeds):
            seen = [(at, look[row : row + 1]) for at, look in self.looks]
            good = [(at, look) for at, look in seen if bool(look.isfinite().all())]
            at = self.frozen.get(seed, good[-1][0])
            ended = "interrupted" if stopped else "done" if at == self.done else "frozen"
            state = "frozen" if seed in self.frozen else ended
            loss = [float(f"{v[row]:.5g}") if math.isfinite(v[row]) else None for v in self.curve]
            yield Made(seed, good[-1][1], [look for _, look in good], state, at, loss)

    def checkpoint(self) -> None:
        """Write one, if what is followed can be put back."""
        if not isinstance(self.steps, Optimization):
            return
        state = {f"state.{name}": tensor for name, tensor in self.steps.state().items()}
        state["curve"] = torch.tensor(self.curve, dtype=torch.float64)
        state["frozen"] = torch.tensor(sorted(self.frozen.items()), dtype=torch.int64)
        state |= {f"look.{at:08d}": look for at, look in self.looks}
        checkpoints.save(self.out, self.canvas.seeds, self.done, state)

    def _restore(self, steps: Optimization, found: checkpoints.Checkpoint) -> None:
        state = found.tensors
        prefix = "state."
        steps.restore({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        self.done = found.step
        self.curve = state["curve"].tolist()
        self.frozen = dict(state["frozen"].tolist())
        looks = {int(name[5:]): look for name, look in state.items() if name.startswith("look.")}
        self.looks = sorted(looks.items())


@contextmanager
def progress(total: int, *, unit: str = "step") -> Iterator[Tell]:
    """A bar on the error stream, and what to tell it; it is quieter where nobody watches."""
    from tqdm import tqdm

    seconds = 0.1 if sys.stderr.isatty() else 10
    silent = os.environ.get("RANK", "0") != "0"  # the main process speaks for all
    with tqdm(
        total=total, unit=unit, mininterval=seconds, dynamic_ncols=True, disable=silent
    ) as bar:

        def tell(rows: int, loss: float | None) -> None:
            if loss is not None:
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(rows)

        yield tell


def reading_period(total: int) -> int:
    """Every how many of ``total`` steps the loss is read."""
    return max(1, total // READINGS)


def _look(canvas: Canvas) -> Tensor:
    """The images as they are now, shape [n, c, h, w], on the CPU."""
    with torch.no_grad():
        return canvas.image().float().cpu()
