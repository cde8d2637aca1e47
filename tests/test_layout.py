"""The floors: who may import whom, which heavy library lives where, and how long a file may be.

Every import of every file is read from its source, those inside functions too. Only imports under
`if TYPE_CHECKING:` are left out, as they never happen.
"""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = (  # each imports from the lines above, and leftwards in its own
    ("_typing", "_plugins", "_files", "_manifest", "_prompts", "rng"),
    ("noise", "grids", "integrate"),
    ("_dtype", "prediction", "condition", "codec", "operators"),
    ("score", "prior"),
    ("toy", "adapters", "guidance"),
    ("tweedie", "statistics", "solvers", "samplers", "likelihood", "distill"),
    (
        "images", "pictures", "plots", "inspection", "studies", "canvas", "views", "_adam",
        "optimization", "edit", "restoration",
    ),
    ("tracking", "checkpoints", "following", "processes", "parts", "jobs", "batch", "runs"),
    ("cli", "choices", "making", "pipelines", "demos"),
)  # fmt: skip
PLACES = {name: (floor, at) for floor, row in enumerate(FLOORS) for at, name in enumerate(row)}
CONSUMERS = FLOORS[5]  # they take any score model, and so know no adapter and no guidance
HOMES = {  # the only ones that import these libraries
    "accelerate": {"processes", "tracking"},
    "gradio": {"demos"},
    "tyro": {"cli", "pipelines", "demos"},
}
LONGEST = 400
LONGEST_PIPELINE = 120

FILES = {
    path: path.relative_to(ROOT).with_suffix("").parts
    for folder in ("sdstoolkit", "pipelines", "demos")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def unit(module: tuple[str, ...]) -> str:
    """The name in FLOORS that a module belongs to; "" for the package's own __init__."""
    parts = module[1:] if module[0] == "sdstoolkit" else module
    return "" if not parts or parts == ("__init__",) else parts[0]


def imports(path: Path, module: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line and dotted name of everything that a file imports when it runs."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            children: list[ast.AST] = list(node.orelse)
        else:
            children = list(ast.iter_child_nodes(node))
        for child in children:
            yield child
            yield from walk(child)

    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, tuple(alias.name.split("."))) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module[: -node.level] if node.level else ()
            origin = (*above, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                # `from sdstoolkit import images` may import the module, `... import load` a name
                yield node.lineno, (*origin, alias.name)


def homes() -> dict[str, str]:
    """Public name -> the unit it lives in, as sdstoolkit/__init__.py declares it."""
    tree = ast.parse((ROOT / "sdstoolkit" / "__init__.py").read_text(encoding="utf-8"))
    declared = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {
        alias.name: (node.module or "").split(".")[1]
        for node in declared
        if (node.module or "").startswith("sdstoolkit.")
        for alias in node.names
    }


PUBLIC = homes()


def target(name: tuple[str, ...]) -> str | None:
    """The unit that an import reaches, or None if it is none of ours."""
    if name[0] != "sdstoolkit" or len(name) < 2:
        return None
    return PUBLIC.get(name[1], name[1] if name[1] in PLACES else None)


def identity(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=identity)
def test_imports_go_down_or_left(path):
    module = FILES[path]
    mine = unit(module)
    if mine == "":  # the package's own file only names the others
        return
    assert mine in PLACES, f"{identity(path)} stands on no floor: give it a place in FLOORS"
    floor, at = PLACES[mine]
    wrong = []
    for line, name in imports(path, module):
        theirs = target(name)
        if theirs is None or theirs == mine:
            continue
        below, place = PLACES[theirs]
        if below > floor or (below == floor and place > at):
            wrong.append(f"line {line}: {mine} may not import {theirs}")
        if mine in CONSUMERS and theirs in ("adapters", "guidance"):
            wrong.append(f"line {line}: {mine} takes any score model, and may not know {theirs}")
    assert not wrong, f"{identity(path)}: {'; '.join(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=identity)
def test_heavy_libraries_stay_at_home(path):
    module = FILES[path]
    for line, name in imports(path, module):
        allowed = HOMES.get(name[0])
        where = f"{identity(path)}, line {line}"
        assert allowed is None or unit(module) in allowed, f"{where}: {name[0]} has its own home"


@pytest.mark.parametrize("path", FILES, ids=identity)
def test_pure_mathematics_has_no_modules(path):
    if unit(FILES[path]) not in FLOORS[0] + FLOORS[1]:
        return
    for line, name in imports(path, FILES[path]):
        assert name[:2] != ("torch", "nn"), f"{identity(path)}, line {line}: no nn on this floor"
    assert "nn.Module" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=identity)
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    longest = LONGEST_PIPELINE if FILES[path][0] == "pipelines" else LONGEST
    assert lines <= longest, f"{identity(path)} has {lines} lines, expected at most {longest}"


def test_every_package_of_the_tree_is_installed():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    found = {".".join(parts[:-1]) for parts in FILES.values() if parts[-1] == "__init__"}
    named = {f"sdstoolkit.{name}" if name in ("pipelines", "demos") else name for name in found}
    assert set(config["setuptools"]["packages"]) == named


def test_the_rules_find_what_they_forbid(tmp_path):
    """The tests above pass on an empty list too, so show that the list is not empty."""
    path = tmp_path / "sds.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import diffusers\nelse:\n    import yaml\n"
        "def f():\n    from sdstoolkit import ClassifierFree\n    from ..guidance import apg\n"
        "    from . import base\n    import sdstoolkit.adapters.flux\n"
    )
    found = [name for _, name in imports(path, ("sdstoolkit", "distill", "sds"))]
    assert ("diffusers",) not in found and ("yaml",) in found
    ours = [target(name) for name in found if name[0] == "sdstoolkit"]
    assert ours == ["guidance", "guidance", "distill", "adapters"]
