"""`sds langevin` and `sds denoise` on tiny random models: what they write, refuse and record."""

import json
from pathlib import Path

import pytest
import tiny_models
import torch

from sdstoolkit import cli
from sdstoolkit.images import read_image, write_image


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("sampler", ["annealed", "predictor-corrector"])
def test_langevin_draws_an_image_a_seed(sampler, capsys):
    model = str(tiny_models.folder("sd_epsilon"))
    words = ["langevin", "a heart", "--model", model, "--out", "out", "--sampler", sampler]
    words += ["--levels", "3", "--steps", "1", "--seeds", "0-2", "--batch-size", "2"]
    assert cli.main(words) == 0, capsys.readouterr().err
    files = {path.name for path in Path("out").iterdir()}
    made = {"000000.png", "000001.png", "000002.png"}
    assert files == made | {"grid.png", "results.jsonl", "manifest.json"}
    record = json.loads(Path("out/manifest.json").read_text(encoding="utf-8"))
    assert record["command"] == "langevin" and record["options"]["sampler"] == sampler
    assert cli.main(words) == 0 and "3 of them made before" in capsys.readouterr().out


def test_denoise_says_the_sigma_that_it_found(capsys):
    model = str(tiny_models.folder("ddpm_epsilon"))
    from sdstoolkit import load

    h, w = load(model).size
    write_image("noisy.png", (0.5 + 0.1 * torch.randn(1, 3, h, w)).clamp(0, 1))
    assert cli.main(["denoise", "noisy.png", "--model", model, "--out", "blind"]) == 0
    out = capsys.readouterr().out
    assert "sigma is 0.0" in out or "sigma is 0.1" in out
    assert read_image("blind/000000.png").shape == (1, 3, h, w)
    latent = str(tiny_models.folder("sd_epsilon"))
    words = ["denoise", "noisy.png", "--sigma", "0.1", "--out", "known", "--model"]
    assert cli.main([*words, model]) == 0
    record = json.loads(Path("known/manifest.json").read_text(encoding="utf-8"))
    assert record["seeds"]["0"]["sigma"] == pytest.approx(0.1)
    capsys.readouterr()
    assert cli.main([*words[:-3], "--out", "no", "--model", latent]) == 2
    assert "model of pixels" in capsys.readouterr().err and not Path("no").exists()
