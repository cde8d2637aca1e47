"""The manifest of a folder: what was asked, what came of it, and the hash of every file.

    {"command", "options", "seeds": {seed: entry}, "outputs": {name: entry}, "runs": [run, ...]}

An entry names a file and its SHA-256. Two runs belong together if command and options are equal.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdstoolkit._files import sha256, write_atomically

__all__ = ["MANIFEST", "open_folder", "refuse_another", "save"]

MANIFEST = "manifest.json"


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
    return dict(found)


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
