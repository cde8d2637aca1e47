"""One run into one folder: which seeds, what is done already, and a manifest of all of it.

    folder = {seed:06d}.png for every seed + what is drawn from them + manifest.json

The options of a run decide on its images, a seed on one of them, so that (options, seed) names an
image for good. A folder whose manifest holds the same options is resumed: seeds that are done are
kept, and asking for more seeds adds them. Any other folder that is not empty is refused, and so is
a file that is not the one the manifest describes: nothing is ever overwritten that this run, or
the one it resumes, did not write.

The manifest is written before each file takes its name, complete or not at all, so that wherever a
run ends, also by a power cut, the folder tells the truth about itself and can be resumed.
"""

import importlib.metadata
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from sdstoolkit import _manifest
from sdstoolkit._files import sha256
from sdstoolkit.canvas import Canvas
from sdstoolkit.images import read_image, strip, write_image
from sdstoolkit.optimization import Step

__all__ = ["Failed", "Job", "parse_seeds", "pick_device", "progress", "versions"]

READINGS = 50  # how often the loss of an optimisation is read
MOMENTS = 8  # how many of its looks are kept, the first and the last among them
_MOST_SEEDS = 1_000_000
_PACKAGES = ("sdstoolkit", "torch", "diffusers", "transformers", "safetensors", "numpy", "pillow")


Tell = Callable[[int, float | None], None]
"""Told after every step: how many rows it was for, and the loss if it was read."""


class Failed(RuntimeError):
    """A run that had begun could not go on; what it had made is kept."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read seeds as a user writes them: ``"0-3,7"`` is 0, 1, 2, 3, 7.

    Raises:
        ValueError: No seeds, the same one twice, a range that runs backwards, anything else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", part)
        if found is None:
            raise ValueError(f"seeds {text!r} could not be read, expected for example '0-3,7'")
        start, stop = int(found[1]), int(found[2] or found[1])
        if stop < start:
            raise ValueError(f"seeds {text!r} run backwards in {part!r}, expected {stop}-{start}")
        if len(seeds) + stop - start >= _MOST_SEEDS:
            raise ValueError(f"seeds {text!r} are more than {_MOST_SEEDS}, expected fewer")
        seeds.extend(range(start, stop + 1))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {text!r} name a seed twice, expected each of them once")
    return tuple(seeds)


def pick_device(name: str) -> str:
    """A device by name; ``"auto"`` is a CUDA device if there is one, else the CPU."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide on a result; none is imported."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


class Job:
    """A run into a folder; a context manager around everything that writes.

    Making one reads the folder and refuses what is not ours; nothing is written before ``with``.

    ```
    job = Job("runs/heart", command="optimize", options={"prompt": "a heart"}, seeds=range(4))
    with job:
        for seeds in job.batches(2):
            for seed, image in zip(seeds, make(seeds)):
                job.keep(seed, image, state="done", steps=300)
    ```

    Args:
        out: The folder.
        command: The verb, as the manifest records it.
        options: What decides on the images, as JSON; neither the seeds nor how they are batched.
        seeds: The images to make, named by seed.

    Attributes:
        todo: The seeds that are still to be made, in the order asked for.
        record: The manifest, as it is going to be written.

    Raises:
        ValueError: The folder holds something else, is not a folder, or cannot be written.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        command: str,
        options: Mapping[str, Any],
        seeds: Sequence[int],
    ) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("a job runs in one process, expected WORLD_SIZE to be 1")
        self.out = Path(out)
        self.seeds = tuple(seeds)
        asked = json.loads(json.dumps({"command": command, "options": dict(options)}))
        self.record = _manifest.open_folder(self.out, asked)
        self.todo = tuple(seed for seed in self.seeds if not self._is_kept(seed))
        for name, entry in self.record["outputs"].items():
            _manifest.refuse_another(self.out / name, entry)

    def _is_kept(self, seed: int) -> bool:
        """Whether the image of a seed is there and final."""
        path, entry = self.path(seed), self.record["seeds"].get(str(seed), {})
        _manifest.refuse_another(path, entry)
        return path.exists() and entry["state"] in ("done", "frozen")

    def path(self, seed: int) -> Path:
        """Where the image of a seed lies."""
        return self.out / f"{seed:06d}.png"

    def read(self, seed: int) -> Tensor:
        """The image of a seed, shape [1, c, h, w]."""
        return read_image(self.path(seed), mode=self.record["seeds"][str(seed)]["mode"])

    def batches(self, size: int) -> Iterator[tuple[int, ...]]:
        """The seeds to do, ``size`` at a time."""
        for start in range(0, len(self.todo), size):
            yield self.todo[start : start + size]

    def __enter__(self) -> "Job":
        self._begun = time.perf_counter()
        self._run: dict[str, Any] = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "state": "running",
            "versions": versions(),
            "machine": {"system": platform.system(), "processor": platform.machine()},
            "seconds": {},
        }
        self.record["runs"].append(self._run)
        self.out.mkdir(parents=True, exist_ok=True)
        self._save()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stopped = isinstance(error, KeyboardInterrupt)
        self._run["state"] = "interrupted" if stopped else "failed" if error else "done"
        self._run["seconds"]["total"] = round(time.perf_counter() - self._begun, 3)
        try:
            self._save()
        except OSError as full:
            error = error or full
        if isinstance(error, (ValueError, OSError, MemoryError, torch.OutOfMemoryError)):
            raise Failed(f"{error} (what was made is kept in {str(self.out)!r})") from error

    def note(self, **facts: Any) -> None:
        """Record facts of this run, such as the device, as JSON."""
        self._run.update(facts)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that a block takes to this run's record."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = self._run["seconds"].get(name, 0.0) + time.perf_counter() - start
            self._run["seconds"][name] = round(spent, 3)

    @contextmanager
    def file(self, name: str, entry: dict[str, Any] | None = None) -> Iterator[Path]:
        """Make one file of the folder; the block writes it at the path it is given.

        Args:
            name: Its name in the folder.
            entry: Where its name and hash are recorded; by default among the outputs.

        Raises:
            ValueError: A file of that name is there and is not the one the manifest describes.
        """
        path, draft = self.out / name, self.out / f".draft-{name}"
        entry = self.record["outputs"].setdefault(name, {}) if entry is None else entry
        _manifest.refuse_another(path, entry)
        try:
            yield draft
            entry |= {"file": name, "sha256": sha256(draft)}
            path.unlink(missing_ok=True)
            self._save()
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def keep(self, seed: int, image: Tensor, *, state: str, steps: int, **facts: Any) -> None:
        """Write the image of a seed, and what there is to say about it.

        Args:
            seed: One of the seeds of this job.
            image: Shape [1, c, h, w] or [c, h, w], values in [0, 1].
            state: ``"done"``, ``"frozen"`` (final, at the last finite step) or ``"interrupted"``
                (made again when the folder is resumed).
            steps: How many steps it is the result of.
            facts: Anything else for the manifest, as JSON.
        """
        mode = "L" if image.shape[-3] == 1 else "RGB"
        entry = self.record["seeds"].setdefault(str(seed), {})
        run = len(self.record["runs"]) - 1
        with self.file(self.path(seed).name, entry) as draft:
            write_image(draft, image)
            entry |= {"state": state, "steps": steps, "run": run, "mode": mode, **facts}

    def follow(
        self,
        canvas: Canvas,
        steps: Iterable[Step],
        *,
        total: int,
        tell: Tell = lambda rows, loss: None,
    ) -> None:
        """Run an optimisation to its end, and keep the image of every row and how it came to be.

        The loss and the images are read now and then, never every step: a read waits for the
        device. Where it is interrupted, the images are kept as they are and it is raised again. An
        image that is not finite is kept as it last was.

        Args:
            canvas: One row a seed.
            steps: What `optimize` returns.
            total: How many steps there are.
            tell: Told how it goes, such as what `progress` gives.

        Raises:
            ValueError: An image is not finite before the first step.
        """
        looks, curve, done, stopped = [(0, _look(canvas))], [], 0, None
        for seed, image in zip(canvas.seeds, looks[0][1], strict=True):
            if not bool(image.isfinite().all()):
                raise ValueError(f"the image of seed {seed} is not finite before the first step")
        frozen: Mapping[int, int] = {}
        try:
            with self.timed("optimize"):
                for step in steps:
                    done, frozen = step.index + 1, step.frozen
                    is_read = done % reading_period(total) == 0
                    if is_read:
                        curve.append(step.values.tolist())
                    if done * (MOMENTS - 1) % total < MOMENTS - 1:
                        looks.append((done, _look(canvas)))
                    tell(canvas.n, step.loss if is_read else None)
        except KeyboardInterrupt as error:
            stopped = error
        if done > looks[-1][0]:
            looks.append((done, _look(canvas)))
        for row, seed in enumerate(canvas.seeds):
            seen = [(at, look[row : row + 1]) for at, look in looks]
            good = [(at, look) for at, look in seen if bool(look.isfinite().all())]
            at = frozen.get(seed, good[-1][0])
            ended = "interrupted" if stopped else "done" if at == done else "frozen"
            state = "frozen" if seed in frozen else ended
            with self.file(f"{seed:06d}-steps.png") as draft:
                write_image(draft, strip([look for _, look in good]))
            with torch.no_grad():
                extra = canvas.files(row)
            for end, content in extra.items():
                with self.file(f"{seed:06d}.{end}") as draft:
                    draft.write_bytes(content)
            loss = [float(f"{v[row]:.5g}") if math.isfinite(v[row]) else None for v in curve]
            self.keep(seed, good[-1][1], state=state, steps=at, loss=loss)
        if stopped is not None:
            raise stopped

    def report(self) -> int:
        """Say on standard output what the folder holds; 1 if a seed could not be finished."""
        entries = {seed: self.record["seeds"][str(seed)] for seed in self.seeds}
        frozen = {s: entry["steps"] for s, entry in entries.items() if entry["state"] == "frozen"}
        for seed, at in frozen.items():
            print(f"seed {seed} stopped at step {at}, where a value was not finite")
        kept = len(self.seeds) - len(self.todo)
        images = "1 image" if len(self.seeds) == 1 else f"{len(self.seeds)} images"
        print(f"{self.out}: {images}{f', {kept} of them made before' if kept else ''}")
        return 1 if frozen else 0

    def _save(self) -> None:
        _manifest.save(self.out, self.record)


@contextmanager
def progress(total: int, *, unit: str = "step") -> Iterator[Tell]:
    """A bar on the error stream, and what to tell it; it is quieter where nobody watches."""
    from tqdm import tqdm

    seconds = 0.1 if sys.stderr.isatty() else 10
    with tqdm(total=total, unit=unit, mininterval=seconds, dynamic_ncols=True) as bar:

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
