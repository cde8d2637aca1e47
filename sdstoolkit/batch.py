"""Many prompts in one folder: a job a prompt, shared by all processes image by image.

    folder = manifest.json + results.jsonl + sheet.png + {number}-{words}/ for every prompt

Of P prompts and S seeds, process r of R takes the images r, r + R, ... of the P S. Nobody waits
for anybody between the first image and the last. One prompt without a file of them is one job in
the folder itself, and is taken here as the batch of one that it is.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from sdstoolkit import _manifest, images, plots
from sdstoolkit._prompts import read_prompts
from sdstoolkit.following import reading_period
from sdstoolkit.jobs import RESULTS, Job, Part
from sdstoolkit.processes import join

__all__ = ["Batch", "draw"]

SHEET = "sheet.png"
SHOWN = 256  # images in the contact sheet
GRID = 64  # images in the grid of one job, curves in its plot


class Batch:
    """One job, or one a prompt; a context manager around everything that writes.

    ```
    batch = Batch("runs/all", command="optimize", options={"prompt": ""}, seeds=range(4),
                  prompts="prompts.txt")
    with batch:
        for job, part in batch.parts(4):
            with part as seeds:
                ...
        batch.finish()
    ```

    Args:
        out: The folder.
        command: The verb, as the manifest records it.
        options: What decides on the images, `prompt` and `negative_prompt` among them.
        seeds: The images to make of each prompt.
        prompts: A file of prompts, see `_prompts`; None takes the one in the options.
        processes: How many processes there must be; None takes the launcher at its word.

    Attributes:
        jobs: One a prompt.
        todo: How many images all processes are still to make.
        mine: How many of them are this process's.

    Raises:
        ValueError: As `Job`; or a prompt comes both ways, or another number of processes.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        command: str,
        options: Mapping[str, Any],
        seeds: Sequence[int],
        prompts: str | None = None,
        processes: int | None = None,
    ) -> None:
        joined = join(processes)
        if prompts is None:
            self.top = Job(out, command=command, options=options, seeds=seeds, processes=joined)
            self.jobs = [self.top]
        else:
            if options.get("prompt"):
                raise ValueError("a prompt was given and a file of prompts, expected one of them")
            wishes = read_prompts(prompts)
            asked = {**options, "prompts": [list(wish) for wish in wishes]}
            self.top = Job(out, command=command, options=asked, seeds=(), processes=joined)
            alone = replace(joined, meets=False)
            self.jobs = []
            for index, wish in enumerate(wishes):
                self.jobs.append(
                    Job(
                        Path(out) / wish.folder(index),
                        command=command,
                        options={**options, **_given(wish._asdict(), options)},
                        seeds=seeds,
                        processes=alone,
                        offset=index * len(seeds),
                    )
                )
        self.todo = sum(len(job.todo) for job in self.jobs)
        self.mine = sum(len(job.mine) for job in self.jobs)

    @property
    def many(self) -> bool:
        """Whether there is a file of prompts."""
        return self.jobs != [self.top]

    def __enter__(self) -> "Batch":
        self.top.__enter__()
        if self.many:
            if self.top.processes.is_main:
                for job in self.jobs:
                    job.out.mkdir(exist_ok=True)
                    _manifest.save(job.out, job.record)
                    _manifest.remove_journals(job.out)
            self.top.processes.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.top.__exit__(kind, error, traceback)

    def parts(self, size: int) -> Iterator[tuple[Job, Part]]:
        """What this process has to do, part by part, with the job that it is of.

        Args:
            size: Images at a time.
        """
        for job in self.jobs:
            if job.mine:
                with job if self.many else nullcontext():
                    for part in job.parts(size):
                        yield job, part

    def note(self, **facts: Any) -> None:
        """Record facts of this run, such as the device, as JSON."""
        self.top.note(**facts)

    def finish(self) -> None:
        """Wait for all; then draw and write down, in the main process, what they have made."""
        if not self.top.gather():
            return
        for job in self.jobs:
            if self.many:
                _manifest.merge_journals(job.out, job.record)
                _manifest.remove_journals(job.out)
            draw(job)
        if self.many:
            found = [{"folder": j.out.name, **line} for j in self.jobs for line in j.results()]
            with self.top.file(RESULTS) as draft:
                draft.write_text("".join(json.dumps(line) + "\n" for line in found), "utf-8")
            self._sheet()

    def report(self) -> int:
        """Say on standard output what the folders hold; 1 if a seed could not be finished."""
        return max([job.report() for job in self.jobs])

    def _sheet(self) -> None:
        """All images side by side, a row a prompt, as far as they are of one size."""
        rows = []
        for job in self.jobs[: max(1, SHOWN // max(1, len(self.jobs[0].seeds)))]:
            kept = [seed for seed in job.seeds if str(seed) in job.record["seeds"]]
            if len(kept) == len(job.seeds):
                rows.append(torch.cat([job.read(seed) for seed in kept]))
        if rows and len({row.shape for row in rows}) == 1:
            with self.top.file(SHEET) as draft:
                tiled = images.grid(torch.cat(rows), columns=len(rows[0]))
                images.write_image(draft, tiled)


def draw(job: Job) -> None:
    """The images of a job side by side, and their losses over the steps if they have any."""
    shown = [seed for seed in job.seeds if str(seed) in job.record["seeds"]][:GRID]
    if not shown:
        return
    with job.file("grid.png") as path:
        images.write_image(path, images.grid(torch.cat([job.read(seed) for seed in shown])))
    curves = {f"seed {seed}": job.record["seeds"][str(seed)].get("loss") or [] for seed in shown}
    if any(curves.values()):
        total = int(job.record["options"]["steps"])
        every = reading_period(total)
        at, label = range(every, total + 1, every), "mean squared residual"
        with job.file("loss.png") as path:
            plots.loss_curve(path, curves, steps=at, label=label)


def _given(wish: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, str]:
    """What a line of the file says, and nothing that the options already say better."""
    return {key: value for key, value in wish.items() if value or not options.get(key)}
