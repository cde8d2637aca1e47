"""One run into one folder: which seeds, what is done already, and a manifest of all of it.

    folder = {seed:06d}.png for every seed + what is drawn from them + manifest.json

The options of a run decide on its images, a seed on one of them: (options, seed) names an image
for good. A folder whose manifest holds the same options is resumed: seeds that are done are kept,
and asking for more adds them. Any other folder that is not empty is refused, and so is a file that
is not the one the manifest describes: nothing is overwritten that this run or the one it resumes
did not write.

The manifest is written before each file takes its name, complete or not at all, so that wherever a
run ends, also by a power cut, the folder tells the truth about itself and can be resumed. Of many
processes the main one writes manifest.json and each other a journal of its own beside it; what
stands in a journal is as good as in the manifest, and is moved there when all meet.
"""

import json
import os
import platform
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor

from sdstoolkit import _manifest, checkpoints
from sdstoolkit._files import sha256
from sdstoolkit._manifest import versions
from sdstoolkit._prompts import parse_seeds
from sdstoolkit.canvas import Canvas
from sdstoolkit.following import Following, Tell, progress
from sdstoolkit.images import read_image, strip, write_image
from sdstoolkit.optimization import Step
from sdstoolkit.parts import Part
from sdstoolkit.processes import Processes, join, pick_device

__all__ = ["Failed", "Job", "Part", "join", "parse_seeds", "pick_device", "progress", "versions"]

RESULTS = "results.jsonl"


class Failed(RuntimeError):
    """A run that had begun could not go on; what it had made is kept."""


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
        processes: Who shares them; by default those of this launch.
        offset: How many images stand before these in a longer list that is shared; see `Batch`.

    Attributes:
        todo: The seeds that are still to be made, in the order asked for, by all processes.
        mine: Those of this process.
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
        processes: Processes | None = None,
        offset: int = 0,
    ) -> None:
        self.out = Path(out)
        self.seeds = tuple(seeds)
        self.processes = join() if processes is None else processes
        asked = json.loads(json.dumps({"command": command, "options": dict(options)}))
        self.record = _manifest.open_folder(self.out, asked)
        self.todo = tuple(seed for seed in self.seeds if not self._is_kept(seed))
        for name, entry in self.record["outputs"].items():
            _manifest.refuse_another(self.out / name, entry)
        rank, world = self.processes.rank, self.processes.world
        share = self.seeds[(rank - offset) % world :: world]
        self.mine = tuple(seed for seed in share if seed in set(self.todo))
        self._stop = threading.Event()
        self._following = False
        self._before: Any = None

    def _is_kept(self, seed: int) -> bool:
        """Whether the image of a seed is there and final, and all that is named after it."""
        path, entry = self.path(seed), self.record["seeds"].get(str(seed), {})
        _manifest.refuse_another(path, entry)
        whole = all(
            (self.out / name).exists()
            for name in self.record["outputs"]
            if name.startswith(f"{path.stem}-")
        )
        return path.exists() and entry["state"] in ("done", "frozen") and whole

    @property
    def ended(self) -> bool:
        """Whether the last run in the folder came to its end; one that was killed did not."""
        runs = self.record["runs"]
        return bool(runs) and runs[-1]["state"] == "done"

    def path(self, seed: int) -> Path:
        """Where the image of a seed lies."""
        return self.out / f"{seed:06d}.png"

    def read(self, seed: int) -> Tensor:
        """The image of a seed, shape [1, c, h, w]."""
        return read_image(self.path(seed), mode=self.record["seeds"][str(seed)]["mode"])

    def batches(self, size: int) -> Iterator[tuple[int, ...]]:
        """The seeds that this process is to do, ``size`` at a time.

        A group that was under way, and has a checkpoint, comes first and as it was; the groups of
        a run that is resumed are those of one that was never interrupted.
        """
        left = list(self.mine)
        for found in checkpoints.groups(self.out):
            if set(found.seeds) & set(left) and found.seeds[0] in self.seeds:
                if set(found.seeds) <= set(self.seeds):
                    left = [seed for seed in left if seed not in found.seeds]
                    yield found.seeds
        for start in range(0, len(left), size):
            if self._stop.is_set():
                raise KeyboardInterrupt("asked to stop")
            yield tuple(left[start : start + size])

    def parts(self, size: int) -> Iterator[Part]:
        """The same as parts, ``with`` each of which its seeds are made; see `Part`.

        Once a half of ``size`` was needed, it is the size from there on.
        """
        for seeds in self.batches(size):
            waiting = [seeds]
            while waiting:
                now = waiting.pop(0)
                if len(now) > size and checkpoints.latest(self.out, now[0]) is None:
                    waiting = [now[k : k + size] for k in range(0, len(now), size)] + waiting
                    continue
                part = Part(self, now)
                yield part
                size = min(size, part.size)
                waiting = [*([now] if part.size < len(now) else []), *waiting]

    def __enter__(self) -> "Job":
        self._begun = time.perf_counter()
        self._run: dict[str, Any] = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "state": "running",
            "versions": versions(),
            "machine": {"system": platform.system(), "processor": platform.machine()},
            "seconds": {},
        }
        if self.processes.world > 1:
            self._run["processes"] = self.processes.world
        self.record["runs"].append(self._run)
        self.out.mkdir(parents=True, exist_ok=True)
        self.processes.wait()  # all have read the folder as it was
        if self.processes.is_main:
            self._save()
            if self.processes.meets:
                _manifest.remove_journals(self.out)
        self.processes.wait()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._asked_to_stop)
        return self

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM ends a run as Ctrl-C does, after the step that is under way."""
        if self._stop.is_set() or not self._following:
            raise KeyboardInterrupt("asked to stop")
        self._stop.set()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
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

    def write(self, name: str, what: str | bytes | Tensor) -> None:
        """Make one file of the folder from a text, an image or bytes; errors are `file`'s."""
        with self.file(name) as draft:
            if isinstance(what, str):
                draft.write_text(what, encoding="utf-8")
            elif isinstance(what, bytes):
                draft.write_bytes(what)
            else:
                write_image(draft, what)

    def keep(
        self,
        seed: int,
        image: Tensor,
        *,
        state: str,
        steps: int,
        looks: Sequence[Tensor] = (),
        **facts: Any,
    ) -> None:
        """Write the image of a seed, how it came to be, and what there is to say about it.

        Args:
            seed: One of the seeds of this job.
            image: Shape [1, c, h, w] or [c, h, w], values in [0, 1].
            state: ``"done"``, ``"frozen"`` (final, at the last finite step) or ``"interrupted"``
                (made again when the folder is resumed).
            steps: How many steps it is the result of.
            looks: It on the way, [1, c, h, w] each, for a strip beside it.
            facts: Anything else for the manifest, as JSON.
        """
        if looks:
            self.write(f"{seed:06d}-steps.png", strip(looks))
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
        checkpoint_every: int = 0,
    ) -> None:
        """Run an optimisation to its end, and keep the image of every row and how it came to be.

        It goes on from its last checkpoint, if there is one. Where it is interrupted, the images
        are kept as they are and it is raised again. An image that is not finite is kept as it last
        was.

        Args:
            canvas: One row a seed.
            steps: What `optimize` returns.
            total: How many steps there are.
            tell: Told how it goes, such as what `progress` gives.
            checkpoint_every: Steps between two checkpoints; 0 writes one on SIGTERM only.

        Raises ValueError if an image is not finite before the first step.
        """
        following = Following(canvas, steps, total=total, out=self.out, every=checkpoint_every)
        stopped = None
        self._following = True
        try:
            with self.timed("optimize"):
                following.run(tell, self._stop.is_set)
        except KeyboardInterrupt as error:
            stopped = error
        finally:
            self._following = False
        if stopped is None and checkpoint_every and canvas.n > 1:
            following.checkpoint()  # so that all rows are kept as one group, or are made again
        for row, made in enumerate(following.made(stopped=stopped is not None)):
            with torch.no_grad():
                extra = canvas.files(row)
            for end, content in extra.items():
                self.write(f"{made.seed:06d}.{end}", content)
            facts = {k: v for k, v in made._asdict().items() if k not in ("seed", "image")}
            self.keep(made.seed, made.image, **facts)
        if stopped is not None:
            raise stopped
        checkpoints.clear(self.out, canvas.seeds[0])

    def gather(self) -> bool:
        """Wait for all processes, and put together what they recorded and kept.

        Returns whether this is the main process, which writes what is drawn from all images.
        """
        self.processes.wait()
        if self.processes.is_main:
            _manifest.merge_journals(self.out, self.record)
            if self.seeds:
                self.write(RESULTS, "".join(json.dumps(line) + "\n" for line in self.results()))
            _manifest.remove_journals(self.out)
        return self.processes.is_main

    def results(self) -> Iterator[dict[str, Any]]:
        """A line an image for results.jsonl: seed, prompt, file, state, steps and last loss."""
        asked = self.record["options"].get("prompt")
        for seed in self.seeds:
            entry = self.record["seeds"].get(str(seed))
            if entry is not None:
                line = {"seed": seed} if asked is None else {"seed": seed, "prompt": asked}
                losses = entry.get("loss") or [None]
                yield line | {k: v for k, v in entry.items() if k != "loss"} | {"loss": losses[-1]}

    def report(self) -> int:
        """Say on standard output what the folder holds; 1 if a seed could not be finished."""
        if not self.processes.is_main:
            return 0
        entries = {seed: self.record["seeds"][str(seed)] for seed in self.seeds}
        frozen = {s: entry["steps"] for s, entry in entries.items() if entry["state"] == "frozen"}
        for seed, at in frozen.items():
            print(f"seed {seed} stopped at step {at}, where a value was not finite")
        kept = len(self.seeds) - len(self.todo)
        before = f", {kept} of them made before" if kept else ""
        print(f"{self.out}: {len(self.seeds)} image{'s'[: len(self.seeds) != 1]}{before}")
        return 1 if frozen else 0

    def _save(self) -> None:
        if self.processes.is_main:
            _manifest.save(self.out, self.record)
        else:
            _manifest.save_journal(self.out, self.record, self.processes.rank)
