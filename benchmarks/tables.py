"""Write the generated tables of README.md and docs/ anew, from what the code says.

    python benchmarks/tables.py
"""

import re
from collections.abc import Callable
from pathlib import Path

import memory

from sdstoolkit import _plugins, solvers
from sdstoolkit.adapters import catalogue
from sdstoolkit.distill.card import cards
from sdstoolkit.distill.card import table as choosing

ROOT = Path(__file__).parents[1]


def rows(head: str, lines: list[tuple[str, ...]]) -> str:
    """A table in Markdown; the head's cells are parted by bars."""
    count = head.count("|") + 1
    body = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([f"| {head} |", "|" + "---|" * count, *body])


def families() -> str:
    """What `load` opens."""
    return rows(
        "family | models | takes",
        [(f"`{each.name}`", each.title, each.takes) for each in catalogue()],
    )


def losses() -> str:
    """What `sds optimize --loss` takes, in brief."""
    found = []
    for name, card in cards().items():
        count = str(card.rows) if isinstance(card.rows, int) else "{} to {}".format(*card.rows)
        found.append((f"`{name}`", f"[{card.paper}]({card.link})", count, f"{card.scale:g}"))
    return rows("loss | paper | rows a step | scale", found)


def methods() -> str:
    """The solvers of the flow."""
    found = []
    for name in _plugins.names(solvers.__name__):
        module = _plugins.find(solvers.__name__, name)
        classes = [v for v in vars(module).values() if isinstance(v, type)]
        mine = [v for v in classes if v.__module__ == module.__name__]
        exact = any(issubclass(v, solvers.Solver) and v.exact for v in mine)
        told = (module.__doc__ or "").splitlines()[0].rstrip(".")
        found.append((f"`{name}`", told, "yes" if exact else ""))
    return rows("solver | what it is | exactly reversible", found)


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"families": families, "losses": losses, "solvers": methods},
    "docs/choosing.md": {"losses": choosing},
    "docs/scaling.md": {"memory": memory.table},
}


def filled(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """A page with its tables as they are today."""
    for name, make in tables.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        body = f"{begin}\n{make()}\n{end}"
        text = re.sub(f"{begin}.*?{end}", lambda _, body=body: body, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for name, tables in PAGES.items():
        page = ROOT / name
        page.write_text(filled(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
