"""The small networks: their scale, their folder, and what they refuse."""

import json
from pathlib import Path

import pytest
import torch

from sdstoolkit import load
from sdstoolkit.noise import VE, VP, Discrete, Rectified
from sdstoolkit.prediction import Epsilon, Flow, Karras, V
from sdstoolkit.toy import Empirical, MLPScore, UNetScore, open_score, save_score, train

VE_ = VE(sigma_min=0.02, sigma_max=12.0)
NETWORKS = {
    "mlp": lambda: MLPScore(3, VP(), V(), width=8, depth=2),
    "unet": lambda: UNetScore((1, 8, 8), VE_, Karras(sigma_data=0.75), widths=(8, 16)),
    "wide": lambda: UNetScore((3, 32, 16), Rectified(), Flow(), widths=(8, 8, 16), features=3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_gives_the_same_network_back(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name]()
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    save_score(tmp_path, model)
    again = open_score(tmp_path)
    assert again.describe() == model.describe() and not any(
        p.requires_grad for p in again.parameters()
    )
    x = torch.randn(2, *model.shape)
    for t in (0.1, 0.9):
        with torch.no_grad():
            assert torch.equal(model(x, t).x_0, again(x, t).x_0)
    assert not torch.allclose(again(x, 0.1).x_0, again(x, 0.9).x_0)


def test_load_opens_a_score_of_images_and_of_nothing_else(tmp_path: Path) -> None:
    save_score(tmp_path / "images", NETWORKS["unet"]())
    prior = load(tmp_path / "images", dtype=torch.float64)
    assert prior.size == (8, 8) and prior.score.dtype == torch.float64
    assert prior.codec.decode(torch.zeros(1, 1, 8, 8)).unique().tolist() == [0.5]
    save_score(tmp_path / "points", NETWORKS["mlp"]())
    with pytest.raises(ValueError, match="score of points with 3 coordinates"):
        load(tmp_path / "points")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("_class_name", "Pickle", "Pickle"),
        ("schedule", {"name": "Discrete"}, "Discrete is not one of"),
        ("parameterization", {"name": "Karras", "sigma": 1}, "sigma"),
        ("sizes", {"shape": [1, 8, 8], "widths": [16], "features": 8}, "Missing|size mismatch"),
    ],
)
def test_a_folder_that_is_not_ours_is_refused(
    key: str, value: object, message: str, tmp_path: Path
) -> None:
    save_score(tmp_path, NETWORKS["unet"]())
    path = tmp_path / "score" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {key: value}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=f"holds no score network.*({message})"):
        open_score(tmp_path)
    with pytest.raises(ValueError, match="holds no score network"):
        open_score(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("shape", "widths", "message"),
    [
        ((1, 8), (16,), "sides from 8 to 32"),
        ((1, 4, 8), (16,), "sides from 8 to 32"),
        ((1, 10, 10), (8, 8, 8), "multiples of 4"),
        ((1, 8, 8), (12,), "multiple of 8"),
        ((1, 8, 8), (), "multiple of 8"),
    ],
)
def test_shapes_that_no_unet_takes(
    shape: tuple[int, ...], widths: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        UNetScore(shape, VP(), Epsilon(), widths=widths)


def test_a_table_has_no_place_in_the_folder(tmp_path: Path) -> None:
    model = MLPScore(2, Discrete(torch.linspace(0.99, 0.01, 10).double()), V(), width=8)
    save_score(tmp_path, model)
    with pytest.raises(ValueError, match="Discrete is not one of"):
        open_score(tmp_path)


@pytest.mark.parametrize("muon", [False, True])
def test_a_unet_learns_the_exact_score_of_two_images(muon: bool) -> None:
    """Two images under a blur: the posterior mean is known, and is learnt to a tenth."""
    images = torch.zeros(2, 1, 8, 8)
    images[0, :, 2:4, 1:7], images[1, :, 1:7, 5:7] = 1.0, -1.0
    law = Empirical(images, std=0.05)
    schedule = VE(sigma_min=0.1, sigma_max=4.0)
    model = UNetScore((1, 8, 8), schedule, Karras(sigma_data=0.4), widths=(8, 16))
    train(model, law.sample(512), steps=120, batch=48, lr=1e-2, warmup=10, ema=0.9, muon=muon)
    x_0 = law.sample(64, seed=5)
    level = schedule.level(torch.linspace(0.05, 0.95, 64).double(), x_0)
    x_t = level.perturb(x_0, torch.randn(x_0.shape, generator=torch.Generator().manual_seed(6)))
    truth = law.under(schedule)(x_t, level).x_0
    with torch.no_grad():
        error = (model(x_t, level).x_0 - truth).square().mean() / truth.square().mean()
    assert float(error) < 0.1
