"""List the models that come along and the families of pretrained models that can be opened.

  sds models
  sds models --markdown > docs/families.md

A family is ready if what it needs is installed. `sds info NAME` tells more of one model.
"""

from dataclasses import dataclass

from sdstoolkit.cli import launch


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds models` takes, with its defaults."""

    markdown: bool = False
    """Print the page docs/families.md instead."""


def run(options: Options) -> int:
    """Print the tables."""
    from sdstoolkit.adapters import catalogue, names
    from sdstoolkit.adapters._table import markdown, missing

    if options.markdown:
        print(markdown(), end="")
        return 0
    print(f"bundled: {', '.join(names()) or 'none'}\n")
    rows = [("family", "takes", "status", "models")]
    for family in catalogue():
        lacks = missing(family)
        status = f"needs {', '.join(lacks)}" if lacks else "ready"
        rows.append((family.name, family.takes, status, family.title))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[3]]).rstrip())
    return 0


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
