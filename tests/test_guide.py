"""The guides do what they say: their Python runs as it stands, one block after the other."""

import re
from pathlib import Path

import pytest

from sdstoolkit.adapters import names

DOCS = Path(__file__).parent.parent / "docs"


def blocks(name: str) -> list[tuple[str, str]]:
    """The Python of a guide, each block with its mark."""
    text = (DOCS / name).read_text(encoding="utf-8")
    return re.findall(r"^(<!-- .*? -->\n)?```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


BLOCKS = blocks("scores.md")


def test_the_guide_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    for mark, block in BLOCKS:
        if "slow" not in mark and ("shapes-pixel" not in mark or "shapes-pixel" in names()):
            exec(compile(block, "docs/scores.md", "exec"), space)
    assert "exactly 12.0" in capsys.readouterr().out


def test_training_and_sampling_read_as_the_guide_says() -> None:
    """The slow block, with fewer steps and rows; benchmarks/scores.py measures the whole of it."""
    (block,) = (block for mark, block in BLOCKS if "slow" in mark)
    for much, little in (("seed=0))", "seed=0), steps=20)"), ("sample(2048", "sample(8")):
        assert much in block
        block = block.replace(much, little)
    space: dict = {}
    exec(compile(block, "docs/scores.md", "exec"), space)
    assert space["x_0"].shape == (8, 2) and space["x_0"].isfinite().all()
    assert space["history"].steps[-1] == 20
    assert space["exact"](space["x_0"], 0.5).score.shape == (8, 2)


def test_invert_and_edit_read_as_the_guide_says(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    for _, block in blocks("flow.md"):
        exec(compile(block, "docs/flow.md", "exec"), space)
    said = capsys.readouterr().out
    assert "codec alone, dB" in said and "8 of 8" in said and "tensor([" in said
    assert space["swapped"].isfinite().all()


def test_restoring_reads_as_the_guide_says(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    for _, block in blocks("restore.md"):
        exec(compile(block, "docs/restore.md", "exec"), space)
    off = [float(line.rsplit(" ", 1)[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(off) == 1 and max(off) < 0.05
