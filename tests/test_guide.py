"""docs/scores.md does what it says: its Python runs as it stands, one block after the other."""

import re
from pathlib import Path

import pytest

from sdstoolkit.adapters import names

TEXT = (Path(__file__).parent.parent / "docs" / "scores.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^(<!-- .*? -->\n)?```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


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
