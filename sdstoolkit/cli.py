"""The `sds` command: `sds VERB ...` runs the file pipelines/VERB.py.

A file of pipelines/ is a verb. It holds

    Options          a frozen dataclass, whose fields are the verb's options and whose field
                     docstrings are its help; a number that has a range is Annotated[int, Range(1)]
    run(options)     that returns an exit code

and ends in `if __name__ == "__main__": raise SystemExit(launch(Options, run))`, so that
`sds VERB`, `python pipelines/VERB.py` and `accelerate launch pipelines/VERB.py` are the same code.

Exit codes: 0; 1 for a run that failed on its way (what it made is kept); 2 for wrong input, before
anything was written; 130 for Ctrl-C. Wrong input is answered by one line, never by a traceback.
"""

import ast
import contextlib
import dataclasses
import importlib.util
import io
import math
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sdstoolkit import __version__, _plugins

__all__ = ["Range", "launch", "main", "one_of", "plugin"]

VERBS = "sdstoolkit.pipelines"


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers an option takes; NaN and infinities are never in it.

    Args:
        low: The smallest one, or None for none.
        high: The largest one, or None for none.
        above: A number that all are greater than, or None for none.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        )

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{self.low:g} or more"
        upper = "" if self.high is None else f", at most {self.high:g}"
        return "any finite number" if self.above is None else f"above {self.above:g}{upper}"


def one_of(package: str) -> Any:
    """The mark of an option that names a file of a package; its help lists what there is."""
    import tyro

    def hint(default: str) -> str:
        return f"(one of: {', '.join(_plugins.names(package))}; default: {default})"

    return tyro.conf.arg(metavar="NAME", help_behavior_hint=hint)


def plugin(package: str, name: str, base: type) -> Any:
    """The one class that a file of a package is there for.

    Args:
        package: For example ``"sdstoolkit.distill"``.
        name: The name of a file in it, without ``.py``.
        base: What the class derives from.

    Raises:
        ValueError: There is no such file; the message lists those that exist.
    """
    module = _plugins.find(package, name)
    (found,) = (
        value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The `sds` command.

    Args:
        argv: The words after `sds`; by default those of this process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"sds {__version__}")
        return 0
    verb, verbs = words[0], _plugins.names(VERBS)
    if verb not in verbs:
        return _refuse(f"there is no verb {verb!r}, expected one of {', '.join(verbs)}")
    module = importlib.import_module(f"{VERBS}.{verb}")
    return launch(module.Options, module.run, argv=words[1:], verb=verb)


def launch(
    options: type, run: Callable[[Any], int], *, argv: Sequence[str] | None = None, verb: str = ""
) -> int:
    """Read the options from the command line, run, and turn what goes wrong into an exit code.

    Args:
        options: A dataclass; see the top of this module.
        run: What to do with one of it; it returns an exit code.
        argv: The words after the verb; by default those of this process.
        verb: The name of the verb; by default that of the file that was started.

    Returns:
        The exit code.
    """
    program = f"sds {verb or Path(sys.argv[0]).stem}"
    words = sys.argv[1:] if argv is None else argv
    try:
        chosen = _parse(options, words, program)
    except ValueError as error:
        return _refuse(str(error))
    if isinstance(chosen, int):
        return chosen
    from sdstoolkit.jobs import Failed  # torch comes with it, which help does not wait for

    try:
        return run(chosen)
    except Failed as error:
        return _refuse(str(error), code=1)
    except (ValueError, OSError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return _refuse("stopped; what was made is kept, and the same command goes on", code=130)


def _parse(options: type, words: Sequence[str], program: str) -> Any:
    """The options, or an exit code where help was asked for or the words are wrong."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            about = sys.modules[options.__module__].__doc__
            chosen: Any = tyro.cli(options, prog=program, description=about, args=list(words))
    except SystemExit as leaving:
        return _refuse(_message(said.getvalue(), program)) if leaving.code else 0
    _check_ranges(chosen)
    return chosen


def _check_ranges(chosen: Any, above: str = "") -> None:
    """Hold every number against its range, those of nested options too."""
    hints = typing.get_type_hints(type(chosen), include_extras=True)
    for field in dataclasses.fields(chosen):
        value, name = getattr(chosen, field.name), above + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            _check_ranges(value, f"{name}.")
        for allowed in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(allowed, Range) and value is not None and value not in allowed:
                raise ValueError(f"--{name} is {value}, expected {allowed}")


def _message(box: str, program: str) -> str:
    """What tyro says in a box, in one line: its first part, and the first of its guesses."""
    parts: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:  # without the title
        text = line.strip("│|╰╯\n").rstrip()
        if set(text.strip()) <= set("─-"):
            parts.append([])
        elif len(text) - len(text.lstrip()) < 8:  # what is further in explains an option
            parts[-1].append(text.strip())
    wrong, *rest = [part for part in parts if part] or [["the options could not be read"]]
    guess = [" ".join(part[:2]) for part in rest if part[0].startswith("Perhaps")]
    return f"{' '.join(wrong)}{f' ({guess[0]})' if guess else ''}; see {program} --help"


def _overview() -> str:
    """The help of `sds` itself; it imports no verb, so that it is quick."""
    lines = [
        "usage: sds VERB [options]",
        "",
        "Score distillation on pretrained diffusion models.",
        "",
    ]
    lines += ["verbs (sds VERB --help tells more):"]
    lines += [f"  {verb:<12} {_summary(verb)}" for verb in _plugins.names(VERBS)]
    lines += ["", "options:", "  -h, --help     show this help and leave"]
    lines += ["  -V, --version  show the version and leave"]
    return "\n".join(lines)


def _summary(verb: str) -> str:
    """The first line of a pipeline's docstring."""
    spec = importlib.util.find_spec(f"{VERBS}.{verb}")
    if spec is None or spec.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _refuse(message: str, *, code: int = 2) -> int:
    """Say what is wrong in one line, on the error stream."""
    print(f"sds: {' '.join(message.split())}", file=sys.stderr)
    return code
