"""The drawings: exact geometry, coverage, captions that say what is drawn, what is held out."""

import math

import pytest
import torch
from torch import Tensor

from sdstoolkit.toy import data


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(shape: str, radius: float, centre: tuple[float, float] = (32.0, 32.0)) -> data.Scenes:
    """One white object on black, undamaged."""
    one = torch.ones(1, dtype=torch.long)
    two = torch.zeros(1, 2, dtype=torch.long)
    return data.Scenes(
        count=one,
        shape=two + data.SHAPES.index(shape),
        colour=two + data.COLOUR_NAMES.index("white"),
        size=two,
        background=one * data.COLOUR_NAMES.index("black"),
        relation=one * 0,
        quality=one * data.CLEAN,
        centre=torch.tensor([[centre, centre]]),
        radius=torch.full((1, 2), radius),
    )


def area(corners: Tensor) -> float:
    """The shoelace formula."""
    x, y = corners.double().unbind(1)
    return 0.5 * abs(float((x * y.roll(-1) - x.roll(-1) * y).sum()))


@pytest.mark.parametrize("shape", data.SHAPES)
def test_the_distance_has_slope_one_and_the_right_sign(shape: str) -> None:
    points = (torch.rand(4000, 2, generator=rng()) * 3 - 1.5).requires_grad_()
    distance = data.signed_distance(shape, points)
    (slope,) = torch.autograd.grad(distance.sum(), points)
    norm = slope.norm(dim=1)
    assert ((norm - 1).abs() < 1e-3).float().mean() > 0.99  # but for the medial axis and corners
    assert data.signed_distance(shape, torch.tensor([[1.4, 1.4]])) > 0
    middle = float(data.signed_distance(shape, torch.zeros(1, 2)))
    assert (middle > 0) == (shape == "ring")


@pytest.mark.parametrize("shape", data.SHAPES)
def test_coverage_sums_to_the_area(shape: str) -> None:
    radius = 20.0
    image = data.render(scene(shape, radius), rng())[0]
    low, high = image.amin((1, 2)), image.amax((1, 2))
    covered = float(((image - low[:, None, None]) / (high - low)[:, None, None]).mean(0).sum())
    if shape == "circle":
        expected = math.pi * 0.92**2
    elif shape == "ring":
        expected = math.pi * (0.94**2 - 0.5**2)
    else:
        expected = area(data.outline(shape))
    assert covered == pytest.approx(expected * radius**2, rel=0.01)


def test_nothing_touches_the_border_and_pairs_keep_their_relation() -> None:
    scenes = data.draw_scenes(2000, rng(), pairs=0.5)
    pair = scenes.count == 2
    for k in range(2):
        rows = pair if k else torch.ones_like(pair)
        reach = scenes.radius[rows, k, None]
        assert (scenes.centre[rows, k] - reach >= 0).all()
        assert (scenes.centre[rows, k] + reach <= data.IMAGE_SIZE).all()
    gap = scenes.centre[pair, 1] - scenes.centre[pair, 0]
    relation = scenes.relation[pair]
    along = torch.where(relation < 2, gap[:, 0], gap[:, 1])
    sign = torch.where(relation % 2 == 0, 1.0, -1.0)
    assert (along * sign > scenes.radius[pair].sum(1)).all()  # in order, and apart


def test_training_never_sees_what_is_held_out() -> None:
    for unseen in (False, True):
        scenes = data.draw_scenes(3000, rng(1), unseen=unseen)
        left_out = data.held_out(scenes.shape, scenes.colour, scenes.background[:, None])
        assert (left_out[:, 0] == unseen).all()
        assert (left_out[scenes.count == 2, 1] == unseen).all()
        assert (scenes.colour[:, 0] != scenes.background).all()
    seen = data.draw_scenes(20_000, rng(2), pairs=0.0)
    pairs = {(int(s), int(c)) for s, c in zip(seen.shape[:, 0], seen.colour[:, 0], strict=True)}
    assert len(pairs) == len(data.SHAPES) * len(data.COLOURS)  # every pair of the three is seen


def test_a_seed_names_a_data_set() -> None:
    first, second = (data.render(data.draw_scenes(8, g), g) for g in (rng(3), rng(3)))
    assert torch.equal(first, second)
    assert first.shape == (8, 3, 64, 64) and first.min() >= 0 and first.max() <= 1


def test_captions_say_what_is_drawn() -> None:
    scenes = data.draw_scenes(400, rng(4), pairs=0.5)
    words = set(data.vocabulary())
    for i in range(400):
        for text in (data.caption(scenes, i), data.caption(scenes, i, rng(i), sized=True)):
            assert set(text.replace(",", " ,").split()) <= words
        full = data.caption(scenes, i, sized=True)
        assert data.SHAPES[scenes.shape[i, 0]] in full
        assert f"{data.COLOUR_NAMES[scenes.background[i]]} background" in full
        assert (data.RELATIONS[scenes.relation[i]] in full) == (scenes.count[i] == 2)
        assert data.SIZES[scenes.size[i, 0]] in full
    assert "a orange" not in " ".join(data.caption(scenes, i) for i in range(400))


def test_the_captions_of_the_benchmark_are_distinct_and_unseen() -> None:
    texts, scenes = data.unseen_captions(256)
    assert len(set(texts)) == 256
    assert data.held_out(scenes.shape[:, 0], scenes.colour[:, 0], scenes.background).all()
    assert data.unseen_captions(256)[0] == texts
    with pytest.raises(ValueError, match="captions were asked for"):
        data.unseen_captions(400)


def test_damage_is_visible_and_named() -> None:
    clean = scene("heart", 16.0)
    image = data.render(clean, rng())
    for index in range(len(data.DEGRADATIONS)):
        damaged = data.Scenes(**{**vars(clean), "quality": torch.tensor([index])})
        other = data.render(damaged, rng())
        if data.DEGRADATIONS[index] != "oversaturated":  # black and white have no colour to push
            assert (other - image).abs().mean() > 0.005


def test_errors_name_the_number() -> None:
    with pytest.raises(ValueError, match="0 scenes"):
        data.draw_scenes(0, rng())
    with pytest.raises(ValueError, match="circle"):
        data.outline("circle")
