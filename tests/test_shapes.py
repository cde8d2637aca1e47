"""The bundled model: what is in its folder, and that it draws and distils what it is told."""

import json

import pytest
import torch

from sdstoolkit import SDS, ClassifierFree, Condition, Discrete, Latents, Prior, V, load, optimize
from sdstoolkit.adapters import BUNDLED
from sdstoolkit.samplers.ddim import DDIM
from sdstoolkit.toy import data

FOLDER = BUNDLED["shapes"]
PROMPT = "a red heart on a white background"


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load("shapes")


def test_the_folder_is_small_open_and_described() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 24e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".png", ".txt"}
    assert json.loads((FOLDER / "model_index.json").read_text())["_class_name"] == (
        "StableDiffusionPipeline"
    )
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "Apache-2.0" in card and "steps" in card


def test_it_predicts_v_on_its_own_table(prior: Prior) -> None:
    assert isinstance(prior.score.parameterization, V)
    assert isinstance(prior.schedule, Discrete)
    assert prior.size == (64, 64) and prior.score.shape == (16, 8, 8)
    level = prior.schedule.level(torch.tensor([0.0, 1.0]), torch.zeros(2, 16, 8, 8))
    assert level.ratio.flatten().tolist() == pytest.approx([0.02917, 65.9], rel=0.02)


def test_every_word_of_its_world_is_known_and_no_other(prior: Prior) -> None:
    for word in data.vocabulary():
        prior.condition(word)
    with pytest.raises(ValueError, match="elephant"):
        prior.condition("a red elephant")
    with pytest.raises(ValueError, match="32"):
        prior.condition("red " * 40)


@torch.no_grad()
def test_captions_are_worth_something_at_every_noise(prior: Prior) -> None:
    """The right caption predicts better than none, and none better than a wrong one."""
    rng = torch.Generator().manual_seed(99)
    scenes = data.draw_scenes(32, rng, pairs=0.0, degraded=0.0)
    x_0 = prior.codec.encode(data.render(scenes, rng))
    eps = torch.randn(x_0.shape, generator=rng)
    told = prior.condition([data.caption(scenes, i) for i in range(32)])
    wrong = Condition({key: value.roll(1, 0) for key, value in told.items()})
    for t in (0.5, 0.7, 0.9):
        level = prior.schedule.level(t, x_0)
        x_t = level.perturb(x_0, eps)
        error = [
            float((prior.score(x_t, level, c).x_0 - x_0).square().mean())
            for c in (told, prior.condition(""), wrong)
        ]
        assert error[0] < 0.8 * error[1] < 0.8 * error[2]


@torch.no_grad()
def test_ddim_draws_the_colours_it_is_told(prior: Prior) -> None:
    prompts = [f"a large {c} circle on a white background" for c in ("red", "green", "blue")]
    model = ClassifierFree(prior.score, prior.condition(""), scale=3.0)
    x_0 = DDIM(model, steps=20).sample(3, prior.condition(prompts))
    image = prior.codec.decode(x_0)
    border = torch.cat([image[:, :, 0], image[:, :, -1]], -1)
    assert border.mean() > 0.85  # white
    darkest = image.amin(1).flatten(1).argmin(1)
    colours = image.flatten(2)[torch.arange(3), :, darkest]
    assert colours.argmax(1).tolist() == [0, 1, 2]


def test_sds_makes_a_red_thing_on_white(prior: Prior) -> None:
    canvas = Latents(prior, n=2, seed=0)
    for _ in optimize(canvas, SDS(prior, PROMPT, scale=15), steps=100):
        pass
    with torch.no_grad():
        image = canvas.image()
    red = (image[:, 0] - image[:, 1:].amax(1)).clamp(0, 1)
    assert image.mean((1, 2, 3)).min() > 0.6  # mostly white
    assert (red.flatten(1).amax(1) > 0.4).all()  # with something red
    assert (red.flatten(1) > 0.4).float().mean(1).max() < 0.5
