"""What a run is to make, as users write it: seeds, and files of prompts.

    0-3,7            seeds 0, 1, 2, 3 and 7
    prompts.txt      a prompt a line; blank lines, and lines that begin with #, are skipped
    prompts.csv      a header with `prompt`, and `negative_prompt` if there is one
    prompts.jsonl    an object a line: {"prompt": ..., "negative_prompt": ...}
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Wish", "parse_seeds", "read_prompts"]

MOST = 100_000
_MOST_SEEDS = 1_000_000


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


class Wish(NamedTuple):
    """What an image shall show, and what not.

    Attributes:
        prompt: Not empty.
        negative_prompt: Maybe empty.
    """

    prompt: str
    negative_prompt: str = ""

    def folder(self, index: int) -> str:
        """A name for a folder: its place in the file and some of its words."""
        words = re.sub(r"[^a-z0-9]+", "-", self.prompt.lower()).strip("-")[:48].strip("-")
        return f"{index:05d}-{words or 'prompt'}"


def read_prompts(path: str | Path) -> tuple[Wish, ...]:
    """The prompts of a file, in its order.

    Args:
        path: ``.txt``, ``.csv`` or ``.jsonl``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Another suffix, not text, no prompt, or a line that cannot be read, by number.
    """
    path = Path(path)
    readers = {".txt": _lines, ".csv": _table, ".jsonl": _objects}
    if path.suffix.lower() not in readers:
        expected = ", ".join(readers)
        raise ValueError(f"{path.name!r} has no known suffix of prompts, expected {expected}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of prompts {str(path)!r}")
    wishes = []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text: {error.reason}") from None
    for number, wish in readers[path.suffix.lower()](text, path):
        if not wish.prompt.strip():
            raise ValueError(f"line {number} of {str(path)!r} has no prompt, expected some words")
        wishes.append(wish)
        if len(wishes) > MOST:
            raise ValueError(f"{str(path)!r} has more than {MOST} prompts, expected fewer")
    if not wishes:
        raise ValueError(f"{str(path)!r} has no prompts, expected one or more")
    return tuple(wishes)


def _lines(text: str, path: Path) -> Iterator[tuple[int, Wish]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, Wish(line.strip())


def _table(text: str, path: Path) -> Iterator[tuple[int, Wish]]:
    rows = csv.DictReader(text.splitlines())
    if "prompt" not in (rows.fieldnames or ()):
        raise ValueError(f"{str(path)!r} has no column 'prompt', expected a header with it")
    for row in rows:
        yield rows.line_num, _wish(row, path, rows.line_num)


def _objects(text: str, path: Path) -> Iterator[tuple[int, Wish]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"line {number} of {str(path)!r} is not a JSON object")
        yield number, _wish(found, path, number)


def _wish(found: dict[str, object], path: Path, number: int) -> Wish:
    prompt, negative = found.get("prompt"), found.get("negative_prompt") or ""
    if not isinstance(prompt, str) or not isinstance(negative, str):
        raise ValueError(f"line {number} of {str(path)!r} has no text under 'prompt'")
    return Wish(prompt.strip(), negative.strip())
