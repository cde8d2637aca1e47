"""What a cold start loads, each measured in a process of its own."""

import subprocess
import sys

import pytest

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
