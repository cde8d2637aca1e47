"""What a cold start loads, each measured in a process of its own."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sdstoolkit

HEAVY = (
    "diffusers",
    "transformers",
    "gradio",
    "kornia",
    "accelerate",
    "matplotlib",
    "peft",
    "PIL",
)


def loaded_after(code: str) -> set[str]:
    """The top-level modules that are loaded once some code has run."""
    report = (
        f"import sys\n{code}\nprint('|'.join(name for name in sys.modules if '.' not in name))"
    )
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split("|"))


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import sdstoolkit, sdstoolkit.cli", (*HEAVY, "torch", "numpy")),
        ("from sdstoolkit import *", HEAVY),
        ("from sdstoolkit.cli import main; main(['--help'])", (*HEAVY, "torch", "numpy", "tyro")),
    ],
    ids=["package", "every public name", "sds --help"],
)
def test_what_is_not_needed_is_not_imported(code, absent):
    assert not loaded_after(code) & set(absent)


def test_public_names():
    """What is promised is there, is what type checkers are told, and is not too much."""
    tree = ast.parse(Path(sdstoolkit.__file__).read_text(encoding="utf-8"))
    told = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sdstoolkit.")
        for alias in node.names
    }
    assert set(told) == set(sdstoolkit.__all__) - {"__version__"}
    assert len(told) <= 45 and set(told) <= set(dir(sdstoolkit))
    for name, module in told.items():
        assert getattr(sdstoolkit, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="no attribute 'Pixel'"):
        sdstoolkit.Pixel  # noqa: B018


def test_versions_agree():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["version"] == sdstoolkit.__version__
