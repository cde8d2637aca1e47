"""The page of families, made from their own files so that it cannot be out of date."""

from importlib.util import find_spec

from sdstoolkit.adapters import Family, catalogue

HEAD = """\
# Families of pretrained models

This page is made by `sds models --markdown` from the files of `sdstoolkit/adapters/`; a test keeps
it so. `load` takes a folder that one of these pipelines saved, or the name of a repository of the
Hugging Face hub that holds such a folder.

| family | models | pipelines | takes | needs | for example |
|---|---|---|---|---|---|
"""


def missing(family: Family) -> tuple[str, ...]:
    """The modules that a family needs and that are not installed."""
    return tuple(name for name in family.needs if find_spec(name) is None)


def markdown() -> str:
    """The page."""
    rows = []
    for family in catalogue():
        cells = (
            f"`{family.name}`",
            family.title,
            ", ".join(f"`{pipeline}`" for pipeline in family.pipelines),
            family.takes,
            ", ".join(f"`{name}`" for name in family.needs) or "nothing more",
            ", ".join(f"`{name}`" for name in family.examples) or "any of your own",
        )
        rows.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(rows)
