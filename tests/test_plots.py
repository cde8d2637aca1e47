"""A figure is drawn, says what it shows, and never touches the global state of pyplot."""

import math
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from sdstoolkit.images import read_image
from sdstoolkit.noise import VE, VP
from sdstoolkit.plots import (
    annealing_strip,
    langevin_animation,
    loss_curve,
    moments,
    schedules,
    score_field,
    trajectories,
)
from sdstoolkit.samplers.langevin import Langevin
from sdstoolkit.toy import Mixture


def words(path) -> str:
    """The text of an svg, which matplotlib keeps as comments beside the outlines."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    tree = ElementTree.parse(path, parser)
    return " ".join(node.text or "" for node in tree.iter(ElementTree.Comment))


def test_loss_curve_shows_every_name_and_its_axes(tmp_path):
    values = {"seed 0": [3.0, 2.0, 1.0], "seed 1": [2.5, math.nan], "seed 2": [2.0, None, 1.0]}
    path = loss_curve(
        tmp_path / "a.svg", values, steps=[10, 20, 30], title="a heart", label="residual"
    )
    text = words(path)
    for word in ("seed 0", "seed 1", "seed 2", "step", "a heart", "residual"):
        assert word in text
    assert "matplotlib.pyplot" not in sys.modules


def test_loss_curve_draws_the_curve(tmp_path):
    """A curve that falls leaves ink at the upper left and at the lower right."""
    path = loss_curve(tmp_path / "a.png", {"a": [10.0 ** (-k / 10) for k in range(50)]})
    # Alpha is there because figures are saved as pillow sees them: read what was drawn.
    from PIL import Image

    with Image.open(path) as picture:
        picture.convert("RGB").save(tmp_path / "flat.png")
    image = read_image(tmp_path / "flat.png")[0]
    blue = (image[2] - image[0] > 0.3).nonzero().double()
    middle = blue.mean(0)
    slope = ((blue[:, 0] - middle[0]) * (blue[:, 1] - middle[1])).sum()
    assert slope > 0  # rows count downwards


def test_values_that_cannot_be_on_a_logarithmic_axis(tmp_path):
    assert loss_curve(tmp_path / "zero.png", {"a": [0.0, 0.0]}).exists()
    assert loss_curve(tmp_path / "one.png", {"a": [1.0]}).exists()
    assert loss_curve(tmp_path / "nan.png", {"a": [math.nan], "b": []}).exists()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_schedules(tmp_path, suffix):
    path = schedules(tmp_path / f"a{suffix}", {"VP": VP(), "VE": VE(sigma_min=0.01, sigma_max=50)})
    assert path.stat().st_size > 5000


def test_figures_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="no values"):
        loss_curve(tmp_path / "a.png", {})
    with pytest.raises(ValueError, match="no values"):
        loss_curve(tmp_path / "a.png", {"a": []})
    with pytest.raises(ValueError, match="3 values were read at 2 steps"):
        loss_curve(tmp_path / "a.png", {"a": [1.0, 2.0, 3.0]}, steps=[1, 2])
    with pytest.raises(ValueError, match="'a.jpg' has no known suffix"):
        loss_curve(tmp_path / "a.jpg", {"a": [1.0]})
    with pytest.raises(ValueError, match="no schedules"):
        schedules(tmp_path / "a.png", {})
    with pytest.raises(FileNotFoundError, match="no folder"):
        loss_curve(tmp_path / "none" / "a.png", {"a": [1.0]})
    assert list(tmp_path.iterdir()) == []


def test_a_figure_does_not_draw_on_the_global_generator(tmp_path):
    state = torch.get_rng_state()
    loss_curve(tmp_path / "a.png", {"a": [1.0, 2.0]})
    assert torch.equal(state, torch.get_rng_state())


def test_score_fields_and_trajectories(tmp_path):
    law = Mixture([[-1.0, 0.0], [1.0, 0.5]], std=0.4)
    fields = {"exact": law.score, "wrong": lambda x: -x}
    path = score_field(tmp_path / "field.png", fields, log_prob=law.log_prob, arrows=5)
    assert path.stat().st_size > 5000
    states = list(Langevin(law, step=0.05, steps=4).steps(6))
    assert trajectories(tmp_path / "way.png", states, title="way").exists()
    for bad in ({}, {"one": lambda x: x[:, 0]}):
        with pytest.raises(ValueError, match="cannot be drawn|returned"):
            score_field(tmp_path / "bad.png", bad, arrows=5)
    with pytest.raises(ValueError, match="cannot be drawn"):
        trajectories(tmp_path / "bad.png", states[:1])


STATES = [k * torch.randn(50, 2, generator=torch.Generator().manual_seed(k)) for k in range(9)]


def test_annealing_strip_names_the_states_that_it_shows(tmp_path):
    names = [f"level {k}" for k in range(9)]
    text = words(annealing_strip(tmp_path / "a.svg", STATES, names=names, panels=3, title="moons"))
    assert all(word in text for word in ("level 0", "level 4", "level 8", "moons"))
    assert "level 1" not in text
    with pytest.raises(ValueError, match="a name a state"):
        annealing_strip(tmp_path / "b.png", STATES, names=["one"])
    with pytest.raises(ValueError, match="two or more of"):
        annealing_strip(tmp_path / "b.png", [state[:, :1] for state in STATES])


def test_the_animation_moves(tmp_path):
    from PIL import Image

    law = Mixture([[-1.0, 0.5], [1.5, 1.0]], std=[0.5, 0.4])
    path = langevin_animation(tmp_path / "a.gif", STATES, log_prob=law.log_prob, frames=4)
    with Image.open(path) as picture:
        assert picture.n_frames == 4
        first = picture.convert("L").histogram()
        picture.seek(3)
        assert picture.convert("L").histogram() != first
    with pytest.raises(ValueError, match="rising extent"):
        langevin_animation(tmp_path / "b.gif", STATES, extent=(1.0, -1.0))


def test_moments_show_every_coordinate_and_the_exact_law(tmp_path):
    exact = {"mean": torch.zeros(9, 2), "variance": torch.arange(9.0)[:, None].expand(9, 2) ** 2}
    text = words(moments(tmp_path / "a.svg", STATES, title="annealed", **exact))
    assert all(word in text for word in ("coordinate 1", "coordinate 2", "variance", "annealed"))
    with pytest.raises(ValueError, match=r"expected \[2\] or \[9, 2\]"):
        moments(tmp_path / "b.png", STATES, mean=torch.zeros(3), variance=torch.ones(2))
