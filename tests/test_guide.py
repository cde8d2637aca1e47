"""docs/scores.md does what it says: its Python runs as it stands, one block after the other."""

import re
from pathlib import Path

import pytest
import torch

TEXT = (Path(__file__).parent.parent / "docs" / "scores.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^(<!-- slow -->\n)?```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, object] = {}
    for slow, block in BLOCKS:
        if not slow:
            exec(compile(block, "docs/scores.md", "exec"), space)
    assert "exactly 12.0" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trained_score_draws_both_modes_in_their_shares() -> None:
    (block,) = (block for slow, block in BLOCKS if slow)
    space: dict = {}
    exec(compile(block, "docs/scores.md", "exec"), space)
    x_0, model, exact = space["x_0"], space["model"], space["exact"]
    assert abs(float((x_0[:, 0] > 0).double().mean()) - 0.7) < 0.03
    clean = space["target"].sample(2000, seed=1)
    level = model.schedule.level(torch.linspace(0, 1, 2000, dtype=torch.float64), clean)
    x_t = level.perturb(clean, torch.randn_like(clean))
    with torch.no_grad():
        found, truth = model(x_t, level).x_0, exact(x_t, level).x_0
    assert (found - truth).square().mean().sqrt() < 0.03 * truth.square().mean().sqrt()
