"""Handwritten digits: the data, the judge, and the study on a score that is exact."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from sdstoolkit import load
from sdstoolkit.images import read_image
from sdstoolkit.noise import VE
from sdstoolkit.studies import digits as studies
from sdstoolkit.toy import Empirical
from sdstoolkit.toy.digits import Digits, Reader, digits, inception_score, train_digits

LEARNT, KEPT = digits()


def test_the_digits_are_whole_and_apart() -> None:
    assert LEARNT.images.shape == (1297, 1, 8, 8) and KEPT.images.shape == (500, 1, 8, 8)
    assert 0 <= LEARNT.images.min() and LEARNT.images.max() <= 1
    for part in (LEARNT, KEPT):
        assert part.labels.unique().tolist() == list(range(10))
    again, _ = digits()
    assert torch.equal(again.images, LEARNT.images)
    nearest = torch.cdist(KEPT.images.flatten(1), LEARNT.images.flatten(1)).min(1).values
    assert nearest.min() > 0  # no digit is in both


def test_the_inception_score_has_its_ends() -> None:
    sure, unsure = torch.eye(10).double(), torch.full((10, 10), 0.1).double()
    assert inception_score(sure) == pytest.approx(10)
    assert inception_score(unsure) == pytest.approx(1)
    assert inception_score(sure[:1].expand(10, 10)) == pytest.approx(1)
    assert inception_score(torch.eye(4).double()) == pytest.approx(4)


def test_the_judge_reads_digits_that_it_has_not_seen() -> None:
    p = Reader(LEARNT)(KEPT.images)
    assert torch.allclose(p.sum(1), torch.ones(500).double())
    assert float((p.argmax(1) == KEPT.labels).double().mean()) > 0.95


@pytest.fixture(scope="module")
def exact() -> tuple[torch.nn.Module, studies.Study, Digits, Digits]:
    """The law of 300 digits under a blur, whose score is known."""
    learnt, kept = (Digits(part.images[:300], part.labels[:300]) for part in (LEARNT, KEPT))
    model = Empirical(2 * learnt.images - 1, std=0.1).under(VE(sigma_min=0.02, sigma_max=12.0))
    return model, studies.study(model, LEARNT, kept, draws=60, levels=16, steps=5), learnt, kept


def test_an_exact_score_passes_every_line(exact) -> None:
    _, found, _, kept = exact
    figures = found.figures
    assert figures["draws: above 0.9"] >= 0.85  # of 60, four standard errors below the held-out
    assert figures["draws: classes"] == 10
    assert figures["draws: inception score"] > 6
    assert figures["draws: inception score"] > 2 * figures["noise: inception score"]
    assert figures["smallest AUC"] > 0.95
    assert found.draws.shape == (60, 1, 8, 8)
    rows = found.tables["Denoising held-out digits, PSNR in dB"]
    noisy = [float(row["noisy"]) for row in rows]
    expected = [20 * torch.log10(torch.tensor(2 / s)).item() for s in studies.SIGMAS]
    assert noisy == pytest.approx(expected, abs=0.1)


def test_its_pictures(exact, tmp_path: Path) -> None:
    model, found, *_ = exact
    studies.pictures(lambda name: nullcontext(tmp_path / name), model, found)
    assert read_image(tmp_path / "digits.png", mode="L").shape[-1] == 10 * 34 + 2
    assert read_image(tmp_path / "annealing.png", mode="L").shape[-2] == 8 * 34 + 2


def test_training_is_a_seed_and_leaves_a_model(tmp_path: Path, capsys) -> None:
    histories, card = studies.train(tmp_path / "run", tmp_path / "out", steps=2, draws=2)
    assert histories["ncsn"].steps[-1] == 2
    assert "ROC-AUC" in card and "PSNR" in card and "ROC-AUC" in capsys.readouterr().out
    model, _ = train_digits(LEARNT, steps=2)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "out").score(x, 0.5).x_0, model.eval()(x, 0.5).x_0)
    assert (tmp_path / "out" / "digits.png").exists()
