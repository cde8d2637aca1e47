"""The manifest of a folder: what was asked, what came of it, and the hash of every file.

    {"command", "options", "seeds": {seed: entry}, "outputs": {name: entry}, "runs": [run, ...]}

An entry names a file and its SHA-256. Two runs belong together if command and options are equal.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdstoolkit._files import sha256, write_atomically

__all__ = [
    "MANIFEST",
    "merge_journals",
    "open_folder",
    "refuse_another",
    "remove_journals",
    "save",
    "save_journal",
    "versions",
]

MANIFEST = "manifest.json"
_PACKAGES = ("sdstoolkit", "torch", "diffusers", "transformers", "safetensors", "numpy", "pillow")
_JOURNAL = ".journal-{rank}.json"


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide on a result; none is imported."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def open_folder(out: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the run that a folder is for, new or to be resumed.

    Args:
        out: The folder, which may not exist yet; nothing is written.
        asked: The ``command`` and the ``options`` of the run, as JSON.

    Raises:
        ValueError: The folder holds anything else, is not a folder, or cannot be written in.
    """
    new = asked | {"seeds": {}, "outputs": {}, "runs": []}
    _text(new).encode()  # a ValueError where the options hold what no file can
    if not out.exists():
        above = next(folder for folder in out.absolute().parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise ValueError(f"the folder {str(out)!r} cannot be made: {above} is not writable")
        return new
    if not out.is_dir():
        raise ValueError(f"{str(out)!r} is a file, expected a folder or a new name")
    if not os.access(out, os.W_OK | os.X_OK):
        raise ValueError(f"the folder {str(out)!r} is not writable, expected one that is")
    if all(path.name.startswith(f".{MANIFEST}.") for path in out.iterdir()):  # cut off at once
        return new
    expected = "expected a new name, an empty folder, or one to resume with the same options"
    if not (out / MANIFEST).is_file():
        raise ValueError(f"the folder {str(out)!r} is not empty and no run's, {expected}")
    try:
        found = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        kinds = {"command": str, "options": dict, "seeds": dict, "outputs": dict, "runs": list}
        known = all(isinstance(found[key], kind) for key, kind in kinds.items())
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(f"{str(out / MANIFEST)!r} is not the manifest of a run, {expected}")
    for key in ("command", "options"):
        if found[key] != asked[key]:
            difference = _difference(found, asked)
            raise ValueError(
                f"the folder {str(out)!r} is another run's ({difference}), {expected}"
            )
    merge_journals(out, found)
    return dict(found)


def save_journal(out: Path, record: Mapping[str, Any], rank: int) -> None:
    """Write what a process beside the main one has recorded, complete or not at all."""
    kept = {key: record[key] for key in ("seeds", "outputs")}
    write_atomically(out / _JOURNAL.format(rank=rank), f"{_text(kept)}\n".encode())


def merge_journals(out: Path, record: dict[str, Any]) -> None:
    """Take over what stands in journals and is newer than what the manifest says.

    An entry is taken where its file is the one it describes.
    """
    for path in _journals(out):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            parts = [(record[key], found[key]) for key in ("seeds", "outputs")]
        except (ValueError, KeyError, TypeError):
            continue
        for mine, theirs in parts:
            for name, entry in theirs.items():
                file = out / str(entry.get("file", ""))
                known = mine.get(name, {}).get("sha256") == entry.get("sha256")
                if not known and (not file.is_file() or sha256(file) == entry.get("sha256")):
                    mine[name] = entry


def remove_journals(out: Path) -> None:
    """Remove the journals, whose entries stand in the manifest now."""
    for path in _journals(out):
        path.unlink(missing_ok=True)


def _journals(out: Path) -> list[Path]:
    return sorted(out.glob(_JOURNAL.format(rank="*")))


def refuse_another(path: Path, entry: Mapping[str, Any]) -> None:
    """ValueError where a file is there that is not the one of its entry."""
    if path.exists() and entry.get("sha256") != sha256(path):
        raise ValueError(
            f"{str(path)!r} is not the file that {MANIFEST} describes: move it away, or choose "
            "another folder"
        )


def save(out: Path, record: Mapping[str, Any]) -> None:
    """Write the manifest of a folder, complete or not at all."""
    write_atomically(out / MANIFEST, f"{_text(record)}\n".encode())


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first thing that differs between two manifests, in words."""
    if old["command"] != new["command"]:
        return f"of {old['command']}, not of {new['command']}"
    differing = [k for k in (*new["options"], *old["options"]) if _of(old, k) != _of(new, k)]
    return f"its {differing[0]} is {_of(old, differing[0])!r}, not {_of(new, differing[0])!r}"


def _of(manifest: Mapping[str, Any], option: str) -> Any:
    return manifest["options"].get(option)


def _text(value: Any, indent: str = "") -> str:
    """JSON with a line for every key, and one line for every list of numbers."""
    inner = f"{indent}  "
    if isinstance(value, dict) and value:
        lines = [f"{inner}{json.dumps(key)}: {_text(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(inner + _text(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
