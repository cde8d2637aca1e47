"""`sds langevin` and `sds denoise` on tiny random models: what they write, refuse and record."""

import json
import re
from pathlib import Path

import pytest
import tiny_models
import torch

from sdstoolkit import cli
from sdstoolkit.adapters import names
from sdstoolkit.images import read_image, write_image
from sdstoolkit.toy import data


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


def test_langevin_takes_a_file_of_prompts(capsys):
    """A folder a prompt, each with the images of its prompt alone."""
    Path("prompts.csv").write_text("prompt,negative_prompt\na heart,\na star,red\n", "utf-8")
    model = str(tiny_models.folder("sd_epsilon"))
    words = ["langevin", "--model", model, "--levels", "3", "--steps", "1", "--seeds", "0-1"]
    assert cli.main([*words, "--prompts", "prompts.csv", "--out", "all"]) == 0
    folders = ["00000-a-heart", "00001-a-star"]
    assert sorted(p.name for p in Path("all").iterdir() if p.is_dir()) == folders
    assert {"sheet.png", "results.jsonl"} < {p.name for p in Path("all").iterdir()}
    assert cli.main([*words, "a heart", "--out", "one"]) == 0
    for name in ("000000.png", "000001.png"):
        alone, first, second = (read_image(Path(f) / name) for f in ("one", *folders_of("all")))
        assert torch.equal(first, alone) and not torch.equal(second, alone)
    assert cli.main([*words, "--prompts", "prompts.csv", "--out", "all"]) == 0
    capsys.readouterr()
    wrong = ["langevin", "--density", "moons", "--prompts", "prompts.csv", "--out", "no"]
    assert cli.main(wrong) == 2 and "--density takes no prompt" in capsys.readouterr().err
    assert cli.main([*words, "a heart", "--prompts", "prompts.csv", "--out", "no"]) == 2
    assert "expected one of them" in capsys.readouterr().err and not Path("no").exists()


def folders_of(out):
    return sorted(path for path in Path(out).iterdir() if path.is_dir())


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


@pytest.mark.skipif("shapes-pixel" not in names(), reason="its weights are not there")
def test_the_bundled_model_of_pixels_draws_and_denoises(capsys):
    words = ["langevin", "--model", "shapes-pixel", "--levels", "6", "--steps", "1"]
    assert cli.main([*words, "--out", "out", "--seeds", "0-1"]) == 0, capsys.readouterr().err
    assert read_image("out/000001.png").shape == (1, 3, 32, 32)
    rng = torch.Generator().manual_seed(0)
    drawn = data.render(data.draw_scenes(1, rng, pairs=0.0, degraded=0.0), rng)
    image = torch.nn.functional.avg_pool2d(drawn, 2)
    noisy = image + 0.1 * torch.randn(image.shape, generator=rng)
    write_image("noisy.png", noisy)
    assert cli.main(["denoise", "noisy.png", "--out", "clean"]) == 0, capsys.readouterr().err
    said = re.search(r"sigma is (0\.\d+)", capsys.readouterr().out)
    # What is written is clipped to [0, 1], so that less noise is there than was added.
    assert said is not None and 0.06 < float(said[1]) < 0.113
    away = read_image("clean/000000.png") - image
    assert away.square().mean() < 0.25 * (noisy.clamp(0, 1) - image).square().mean()


PICTURES = {"score_field.png", "trajectories.png", "annealing.png", "langevin.gif", "moments.png"}


@pytest.mark.parametrize(
    ("density", "sampler"), [("moons", "annealed"), ("mixture", "predictor-corrector")]
)
def test_points_are_drawn_and_how_they_came_to_be(density, sampler, capsys):
    words = ["langevin", "--density", density, "--out", "out", "--sampler", sampler]
    words += ["--levels", "12", "--steps", "3", "--points", "150"]
    assert cli.main(words) == 0, capsys.readouterr().err
    files = {path.name for path in Path("out").iterdir()}
    made = PICTURES | {"results.jsonl"}
    assert files == made | {"000000.png", "manifest.json"}
    record = json.loads(Path("out/manifest.json").read_text(encoding="utf-8"))
    assert record["options"]["density"] == density and set(record["outputs"]) == made
    assert float(read_image("out/000000.png", mode="L").min()) == 0
    assert cli.main(words) == 0 and "made before" in capsys.readouterr().out
    for wrong in (["a heart"], ["--seeds", "0-1"]):
        assert cli.main([*words[:3], "--out", "no", *wrong]) == 2
        assert "--density takes no prompt" in capsys.readouterr().err and not Path("no").exists()


def test_moons_are_learnt_drawn_and_described(capsys):
    from sdstoolkit.toy import open_score

    words = ["train", "moons", "--run", "run", "--out", "out", "--steps", "3"]
    assert cli.main(words) == 0, capsys.readouterr().err
    files = {path.name for path in Path("out").iterdir()}
    assert files == PICTURES | {"README.md", "score.png", "score", "model_index.json"}
    assert open_score(Path("out")).shape == (2,)
    assert "relative error of x_0" in Path("out/README.md").read_text(encoding="utf-8")
    assert cli.main(words) == 2 and "not empty" in capsys.readouterr().err
    assert cli.main(["train", "moons", "--run", "run", "--out", "no", "--denoiser", "3"]) == 2
    assert "--denoiser is no option of moons, but of shapes" in capsys.readouterr().err
    assert cli.main(["train", "shapes", "--run", "run", "--out", "no", "--steps", "3"]) == 2
    assert "--steps is no option of shapes" in capsys.readouterr().err
