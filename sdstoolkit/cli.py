"""The `sds` command: `sds VERB ...` runs the file pipelines/VERB.py.

A file of pipelines/ is a verb. It holds

    Options          a frozen dataclass, whose fields are the verb's options and whose field
                     docstrings are its help; a number that has a range is Annotated[int, Range(1)]
    run(options)     that returns an exit code

An option marked `Own` names a file of a package whose class has options of its own: they are those
keyword arguments of the class that a command line can give, with the help of its docstring, and
`own` returns them.

and ends in `if __name__ == "__main__": raise SystemExit(launch(Options, run))`, so that
`sds VERB`, `python pipelines/VERB.py` and `accelerate launch pipelines/VERB.py` are the same code.

Exit codes: 0; 1 for a run that failed on its way (what it made is kept); 2 for wrong input, before
anything was written; 130 for Ctrl-C. Wrong input is answered by one line, never by a traceback.
"""

import ast
import contextlib
import dataclasses
import importlib.util
import inspect
import io
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sdstoolkit import __version__, _plugins

__all__ = ["Own", "Range", "launch", "main", "one_of", "own", "plugin"]

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


@dataclasses.dataclass(frozen=True)
class Own:
    """The mark of an option, beside `one_of`, whose choice brings options of its own.

    Args:
        package: For example ``"sdstoolkit.edit"``.
        base: The name of the class in it that its files derive from, for example ``"Edit"``.
    """

    package: str
    base: str

    def find(self, name: str) -> Any:
        """The class of a choice."""
        base = getattr(importlib.import_module(self.package), self.base)
        return plugin(self.package, name, base)


def own(options: Any, field: str) -> dict[str, Any]:
    """The options that a choice brought, as keyword arguments of its class.

    Args:
        options: What the command line gave.
        field: The name of the option marked `Own`.

    Raises:
        ValueError: One of them names a file that is not there.
    """
    given = {name: getattr(options, name) for name in getattr(options, "_own", {}).get(field, ())}
    kinds = options._own[field] if given else {}
    return {
        name: value if (kind := kinds[name]) in _PLAIN else plugin(_package(kind), value, kind)()
        for name, value in given.items()
        if value is not None
    }


_PLAIN = (bool, int, float, str)


def _package(kind: type) -> str:
    """The package whose files derive from a class that stands in its `base`."""
    return kind.__module__.removesuffix(".base")


def _keywords(of: type) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and default of what a command line can give: a value, or the name of a file."""
    init: Any = inspect.getattr_static(of, "__init__")
    hints = typing.get_type_hints(init)
    for name, parameter in inspect.signature(init).parameters.items():
        kind: Any = hints.get(name)
        if isinstance(kind, types.UnionType):
            kind = next((part for part in typing.get_args(kind) if part is not type(None)), None)
        named = isinstance(kind, type) and kind.__module__.endswith(".base")
        optional = parameter.default is not parameter.empty
        if parameter.kind is parameter.KEYWORD_ONLY and optional and (kind in _PLAIN or named):
            yield name, kind, parameter.default


def _with_own(options: type, words: Sequence[str]) -> type:
    """The options, and those that the choices among the words bring."""
    import tyro

    hints = typing.get_type_hints(options, include_extras=True)
    taken = {field.name for field in dataclasses.fields(options)}
    added: list[tuple[str, Any, Any]] = []
    kinds: dict[str, dict[str, Any]] = {}
    for field in dataclasses.fields(options):
        for mark in getattr(hints[field.name], "__metadata__", ()):
            if not isinstance(mark, Own):
                continue
            of = mark.find(_chosen(words, field.name) or str(field.default))
            about = dict(re.findall(_ARGUMENT, inspect.getdoc(of) or "", re.MULTILINE))
            for name, kind, default in _keywords(of):
                if name in taken:
                    continue
                text = " ".join(about.get(name, "").split())
                extra: tuple[Any, ...] = (tyro.conf.arg(help=text[:1].upper() + text[1:]),)
                kinds.setdefault(field.name, {})[name] = kind
                if kind not in _PLAIN:
                    extra, kind, default = (*extra, one_of(_package(kind))), str | None, None
                value = dataclasses.field(default=default)
                added.append((name, typing.Annotated[(kind, *extra)], value))
    if not added:
        return options
    about_it = {"__module__": options.__module__, "__doc__": options.__doc__, "_own": kinds}
    return dataclasses.make_dataclass(
        options.__name__, added, bases=(options,), frozen=True, kw_only=True, namespace=about_it
    )


_ARGUMENT = r"^ {4}(\w+): (.+(?:\n {8}.+)*)"  # of a docstring's Args, indents taken away


def _chosen(words: Sequence[str], field: str) -> str | None:
    """What follows an option among the words, the last time that it is there."""
    flag, found = "--" + field.replace("_", "-"), None
    for word, then in zip(words, [*words[1:], ""], strict=True):
        if word == flag:
            found = then
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


def one_of(package: str) -> Any:
    """The mark of an option that names a file of a package; its help lists what there is."""
    import tyro

    def hint(default: str) -> str:
        names = f"one of: {', '.join(_plugins.names(package))}"
        return f"({names}; default: {default})" if default.strip("'") else f"({names})"

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

    options = _with_own(options, words)
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
            flat = hasattr(value, "__tyro_markers__")  # a group that stands beside the others
            _check_ranges(value, above if flat else f"{name}.")
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
