"""The options of losses and canvases as fields of a form, from what the command has.

A field takes its type, its default, its range and its words from the option's line in `choices`,
so that an option which is added there appears here by itself. Ends that the command leaves open
are closed here, at sixteen times the default or a sixteenth of it, for the machine is not the
user's: a stride of a millionth would be a million network evaluations.
"""

import ast
import inspect
import textwrap
import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from sdstoolkit.choices import Choices, Own
from sdstoolkit.cli import Range
from sdstoolkit.demos._guard import number, text

__all__ = ["Option", "chosen", "names", "options", "row"]

LARGEST = 1e6  # of numbers without ends
TIMES = 16
UNSAFE = {("reward", "clip")}  # names a folder of the server


@dataclass(frozen=True)
class Option:
    """An option of one loss or canvas.

    Attributes:
        owner: The loss or canvas.
        name: Its name there.
        kind: bool, int, float or str.
        default: What it is if nobody says anything.
        low, high: The ends of a number.
        about: What it does, in a line.
    """

    owner: str
    name: str
    kind: type
    default: Any
    low: float
    high: float
    about: str

    @property
    def key(self) -> str:
        """Its name among the options of all."""
        return f"{self.owner}_{self.name}"

    def field(self) -> Any:
        """A component to set it with."""
        shown: dict[str, Any] = {
            "value": self.default,
            "label": self.name.replace("_", " ").capitalize(),
            "info": self.about,
            "elem_id": f"own-{self.key.replace('_', '-')}",
        }
        if self.kind is bool:
            return gr.Checkbox(**shown)
        if self.kind is str:
            return gr.Textbox(**shown)
        whole = self.kind is int
        if (self.low, self.high) == (0, 1):
            return gr.Slider(0, 1, step=0.01, **shown)
        return gr.Number(precision=0 if whole else None, step=1 if whole else 0.01, **shown)

    def read(self, value: object) -> Any:
        """What a user has set it to.

        Raises:
            ValueError: It is of another type, or out of its range.
        """
        title = f"{self.name.replace('_', ' ')} of {self.owner}"
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError(f"{title} is {value!r}, expected yes or no")
            return value
        if self.kind is str:
            return text(title, value)
        whole = self.kind is int
        return self.kind(number(title, value, self.low, self.high, whole=whole))


def names() -> list[str]:
    """The losses and canvases that have options, in the order of the command's help."""
    return [name for name, value in vars(Choices()).items() if isinstance(value, Own)]


def options(owner: str) -> list[Option]:
    """The options of a loss or canvas; none for many."""
    own = Choices().own(owner)
    hints, words = typing.get_type_hints(type(own), include_extras=True), _words(type(own))
    found = []
    for each in fields(own):
        if (owner, each.name) in UNSAFE:
            continue
        hint = hints[each.name]
        marks = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Range)]
        kind = typing.get_args(hint)[0] if marks else hint
        low, high = _ends(marks[0], kind, each.default) if marks else (-LARGEST, LARGEST)
        about = words[each.name]
        if marks and kind is int and about.endswith(" or more."):
            about = f"{about.rpartition(':')[0]}: {low:g} to {high:g}."
        found.append(Option(owner, each.name, kind, each.default, low, high, about))
    return found


def row(owner: str, *, visible: bool) -> tuple[gr.Group, list[Any]]:
    """The fields of a loss or canvas side by side, and what hides them."""
    with gr.Group(visible=visible, elem_id=f"own-{owner}") as group, gr.Row():
        made = [option.field() for option in options(owner)]
    return group, made


def chosen(owners: Sequence[str], values: dict[str, object]) -> dict[str, Own]:
    """The options of those that are used, as the command takes them.

    Args:
        owners: A loss and a canvas.
        values: What the form has, by `Option.key`; those of others are left alone.

    Raises:
        ValueError: As `Option.read`.
    """
    found = {}
    for owner in owners:
        given = {o.name: o.read(values[o.key]) for o in options(owner) if o.key in values}
        if given:
            found[owner] = type(Choices().own(owner))(**given)
    return found


def _ends(allowed: Range, kind: type, default: Any) -> tuple[float, float]:
    """The ends of a number's range: those of the command, and where it has none the page's."""
    above = None if allowed.above is None else max(allowed.above, default / TIMES)
    low = next((end for end in (allowed.low, above) if end is not None), -LARGEST)
    roomy = TIMES * max(1, default) if kind is int else LARGEST
    return low, roomy if allowed.high is None else allowed.high


def _words(cls: type) -> dict[str, str]:
    """The line under each field of a dataclass."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    return {
        at.target.id: " ".join(str(under.value.value).split())
        for at, under in zip(body, body[1:], strict=False)
        if isinstance(at, ast.AnnAssign)
        and isinstance(at.target, ast.Name)
        and isinstance(under, ast.Expr)
        and isinstance(under.value, ast.Constant)
    }
