"""Edits from one pair of components to another, masked and seeded."""

import pytest
import torch
from problems_flow import LEAST, MEANS, SCHEDULE, components, pinned

from sdstoolkit import _plugins
from sdstoolkit.codec import Codec
from sdstoolkit.edit import DDPM, FlowEdit, NegativePrompt, PromptSwap, SDEdit, composite
from sdstoolkit.edit.masks import check
from sdstoolkit.noise import Cosine, Rectified
from sdstoolkit.prediction import Flow, V
from sdstoolkit.samplers import ProbabilityFlow
from sdstoolkit.solvers import ReversibleHeun
from sdstoolkit.toy import Mixture

MODEL = pinned().under(SCHEDULE)
SOURCE, TARGET = components(0, 1), components(3, 4)
EDITS = [
    PromptSwap(MODEL, steps=20),
    PromptSwap(MODEL, steps=20, strength=0.8),
    NegativePrompt(MODEL, scale=1.5, steps=20),
    SDEdit(MODEL, strength=0.9, steps=20),
    FlowEdit(MODEL, steps=30, strength=1.0),
    DDPM(MODEL, steps=40, strength=1.0),
]


def points(n=12):
    mixture = pinned()
    mixture.log_weights = SOURCE["weights"][0].log()
    return mixture.sample(n, seed=3, dtype=torch.float64) + LEAST


def named(edit):
    return type(edit).__name__


def test_every_method_is_a_file():
    listed = _plugins.names("sdstoolkit.edit")
    assert {type(e).__module__.rsplit(".", 1)[1] for e in EDITS} == set(listed)


@pytest.mark.parametrize("edit", EDITS, ids=named)
def test_an_edit_ends_in_the_target(edit):
    """Near one of the target's components, and a row's result is its own."""
    x_0 = points()
    edited = edit(x_0, SOURCE, TARGET, seed=5)
    near = torch.cdist(edited, MEANS).argmin(1)
    assert torch.isin(near, torch.tensor([3, 4])).double().mean() > 0.7
    alone = edit(x_0[2:3], SOURCE, TARGET, seed=7)
    assert (edited[2:3] - alone).abs().max() < 1e-9


@pytest.mark.parametrize(
    "edit", [FlowEdit(MODEL, steps=7, draws=2), DDPM(MODEL, steps=7)], ids=named
)
def test_to_the_same_condition_nothing_moves(edit):
    x_0 = points()
    edited = edit(x_0, SOURCE, SOURCE)
    assert (edited - x_0).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("schedule", "parameterization"), [(Rectified(), Flow()), (Cosine(), V())], ids=repr
)
def test_the_same_edit_whatever_the_network_predicts(schedule, parameterization):
    model = pinned().under(schedule, parameterization)
    for edit in (
        PromptSwap(model, steps=30),
        FlowEdit(model, steps=30, strength=0.95),
        DDPM(model, steps=40, strength=0.999),
    ):
        near = torch.cdist(edit(points(), SOURCE, TARGET), MEANS).argmin(1)
        assert torch.isin(near, torch.tensor([3, 4])).double().mean() > 0.7


def test_negative_prompt_undoes_an_inversion_at_any_scale():
    x_0 = points()
    edit = NegativePrompt(MODEL, scale=7.5, steps=20, solver=ReversibleHeun())
    alone = PromptSwap(MODEL, steps=20, solver=ReversibleHeun())
    assert torch.allclose(edit(x_0, SOURCE, SOURCE), alone(x_0, SOURCE, SOURCE), atol=1e-9)


def test_prompt_swap_is_the_edit_of_a_flow():
    flow, x_0 = ProbabilityFlow(MODEL, steps=20), points()
    assert torch.equal(EDITS[0](x_0, SOURCE, TARGET), flow.edit(flow.invert(x_0, SOURCE), TARGET))


def pictures():
    mixture = Mixture(torch.zeros(1, 48), std=0.5, shape=(3, 4, 4)).under(Rectified(), Flow())
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 1:3] = 1
    return SDEdit(mixture, steps=4), torch.rand(2, 3, 4, 4), mask


def test_outside_of_a_mask_nothing_changes():
    edit, image, mask = pictures()
    codec = Codec()
    x_0 = codec.encode(image)
    edited = edit(x_0, None, None, mask=mask)
    outside = (mask == 0).expand_as(x_0)
    assert torch.equal(edited[outside], x_0.double()[outside])
    assert not torch.equal(edited[~outside], x_0.double()[~outside])
    kept = composite(codec, edited, mask, background=image, kept=x_0)
    assert torch.equal(kept[outside], image.double()[outside])
    kept = composite(codec, edited, mask, kept=x_0)
    assert torch.equal(kept[outside], codec.decode(x_0).double()[outside])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 1, 4, 5), r"mask has shape \[1, 1, 4, 5\]"),
        (torch.ones(3, 1, 4, 4), r"expected \[2 or 1, 1, 4, 4\]"),
        (torch.zeros(1, 1, 4, 4), r"black in rows \[0\]"),
        (2 * torch.ones(1, 1, 4, 4), r"not \[0, 1\]"),
    ],
)
def test_masks_that_do_not_fit(mask, message):
    _, image, _ = pictures()
    with pytest.raises(ValueError, match=message):
        check(mask, image)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PromptSwap(MODEL, strength=0.0),
        lambda: SDEdit(MODEL, strength=1.1),
        lambda: FlowEdit(MODEL, strength=-1.0),
        lambda: FlowEdit(MODEL, draws=0),
        lambda: DDPM(MODEL, strength=2.0),
    ],
)
def test_options_out_of_range(make):
    with pytest.raises(ValueError, match=r"is not (in \(0, 1\]|at least 1)"):
        make()
