"""From the options of a verb to its folder: open what they name, make what is missing, report.

Options that decide on an image go into the manifest, and with a seed they name it; `EXECUTION`
lists those that do not. A file that is read is known by its contents, not by where it lies.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdstoolkit._files import sha256
from sdstoolkit.batch import Batch
from sdstoolkit.jobs import Job, parse_seeds

__all__ = ["deciding", "named", "run", "run_batch"]

EXECUTION = (  # options that do not decide on an image
    "out", "seeds", "prompts", "batch_size", "device", "checkpoint_every", "processes",
)  # fmt: skip


def deciding(options: Any, files: Sequence[str] = ()) -> dict[str, Any]:
    """The options of a dataclass that decide on an image, as the manifest records them.

    Args:
        options: A dataclass.
        files: The options that name files to read, or lists of them.

    Raises:
        FileNotFoundError: One of the files is not there.
    """
    found = {k: v for k, v in asdict(options).items() if k not in EXECUTION}
    found |= of_groups(options, found)
    for name in files:
        given = found[name]
        found[name] = named(given) if isinstance(given, str) else [*map(named, given)]
    return found


def of_groups(options: Any, found: dict[str, Any]) -> dict[str, Any]:
    """What the groups of options that verbs share say of themselves; it takes their place.

    Args:
        options: A dataclass; a group in it has a method `decides`.
        found: Its fields by name, from which the groups are taken away.
    """
    said: dict[str, Any] = {}
    for name, group in vars(options).items():
        if hasattr(group, "decides"):
            found.pop(name)
            said |= group.decides()
    return said


def run(
    options: Any,
    make: Callable[[Job, Any], None],
    *,
    command: str,
    files: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
) -> int:
    """Open the job of a verb's options, make what is missing, and say what the folder holds.

    Args:
        options: A dataclass with `out`.
        make: What makes the images that are missing, and at its end calls `Job.gather`; not called
            where none are this process's, but if a run ended before what it makes of all images.
        command: The verb.
        files: As :func:`deciding`.
        seeds: The images; by default what the option `seeds` says, or image 0 alone.

    Returns:
        The exit code: 1 if an image could not be finished.

    Raises:
        ValueError: As `parse_seeds` and `Job`.
        FileNotFoundError: One of the files is not there.
    """
    if seeds is None:
        seeds = parse_seeds(options.seeds) if hasattr(options, "seeds") else (0,)
    job = Job(options.out, command=command, options=deciding(options, files), seeds=seeds)
    undrawn = not job.todo and not job.ended  # what is made of all images may not be there
    if job.mine or (undrawn and job.processes.is_main):
        make(job, options)
    elif job.todo or undrawn:  # other processes have some to make
        with job:
            job.gather()
    return job.report()


def run_batch(
    options: Any,
    make: Callable[[Batch, Any], None],
    *,
    command: str,
    chosen: dict[str, Any] | None = None,
) -> int:
    """The same for a verb that takes a file of prompts: a job a prompt.

    Args:
        options: A dataclass with `out`, `seeds`, `prompts` and `processes`.
        make: What makes the images that are missing; not called where there are none.
        command: The verb.
        chosen: What decides on an image, where that is not what :func:`deciding` says.

    Returns:
        The exit code: 1 if an image could not be finished.

    Raises:
        ValueError: As `parse_seeds` and `Batch`.
    """
    works = Batch(
        options.out,
        command=command,
        options=deciding(options) if chosen is None else chosen,
        seeds=parse_seeds(options.seeds),
        prompts=options.prompts,
        processes=options.processes,
    )
    if works.todo:
        make(works, options)
    elif not works.top.ended:  # it was stopped after its last image
        with works:
            works.finish()
    return works.report()


def named(path: str) -> str:
    """The name of a file and its hash; what is no file stays as it is."""
    if not path:
        return path
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path!r}")
    return f"{Path(path).name} (sha256 {sha256(path)})"
