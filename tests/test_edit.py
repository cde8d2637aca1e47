"""Edits from one pair of components to another, masked and seeded."""

import pytest
import torch
from problems_distillation import posterior_coefficients
from problems_flow import LEAST, MEANS, SCHEDULE, components, pinned

from sdstoolkit import _plugins, distill
from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.edit import (
    CDS,
    DDPM,
    DDS,
    IDS,
    PDS,
    Edit,
    EditStep,
    FixedPoint,
    FlowEdit,
    Known,
    NegativePrompt,
    NullText,
    PromptSwap,
    SDEdit,
    composite,
)
from sdstoolkit.edit.masks import check, shrink
from sdstoolkit.noise import VP, Cosine, Rectified
from sdstoolkit.prediction import Epsilon, Flow, V
from sdstoolkit.rng import generators
from sdstoolkit.samplers import ProbabilityFlow
from sdstoolkit.score import ScoreModel
from sdstoolkit.solvers import Dopri5, Euler, ImplicitEuler, ReversibleHeun
from sdstoolkit.toy import Mixture

MODEL = pinned().under(SCHEDULE)
SOURCE, TARGET = components(0, 1), components(3, 4)
EVERYTHING = components(*range(6))
EDITS = [
    PromptSwap(MODEL, steps=20),
    PromptSwap(MODEL, steps=20, strength=0.8),
    NegativePrompt(MODEL, scale=1.5, steps=20),
    NullText(MODEL, EVERYTHING, scale=1.5, steps=12, inner=2, lr=1e-3),
    FixedPoint(MODEL, steps=20),
    SDEdit(MODEL, strength=0.9, steps=20),
    FlowEdit(MODEL, steps=30, strength=1.0),
    DDPM(MODEL, steps=40, strength=1.0),
    DDS(MODEL, scale=1, steps=60, lr=0.2),
    PDS(MODEL, scale=1, steps=60, lr=0.2, identity=0.0),
    IDS(MODEL, scale=1, steps=60, lr=0.2, iterations=1),
    CDS(MODEL, scale=1, steps=60, lr=0.2, contrast=0.0),
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
    "edit",
    [
        FlowEdit(MODEL, steps=7, draws=2),
        DDPM(MODEL, steps=7),
        DDS(MODEL, EVERYTHING, scale=7.5, steps=7),
        PDS(MODEL, EVERYTHING, scale=7.5, steps=7),
    ],
    ids=named,
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


class Watchful(Edit):
    """Keeps whether gradients are on at each of its steps."""

    def __init__(self):
        self.seen = []

    def walk(self, x_0, source, target, rng, mask):
        for index in range(3):
            self.seen.append(torch.is_grad_enabled())
            yield EditStep(index + 1, 3, x_0 + index)


def test_gradients_are_off_in_the_walk_and_nowhere_else():
    """Not between two steps, whatever the caller has, and however many walks there are."""
    edit, x_0 = Watchful(), torch.zeros(2, 1, 4, 4, requires_grad=True)
    mask = torch.ones(1, 1, 4, 4)
    for wanted in (True, False):
        with torch.set_grad_enabled(wanted):
            walks = [edit.steps(x_0, None, None, mask=given) for given in (None, mask)]
            for steps in zip(*walks, strict=True):
                assert torch.is_grad_enabled() is wanted
                assert not any(step.x_0.requires_grad for step in steps)
            assert torch.is_grad_enabled() is wanted
            next(edit.steps(x_0, None, None))  # a walk that is left
            assert torch.is_grad_enabled() is wanted
    assert edit.seen == [False] * 14


def test_negative_prompt_undoes_an_inversion_at_any_scale():
    x_0 = points()
    edit = NegativePrompt(MODEL, scale=7.5, steps=20, solver=ReversibleHeun())
    alone = PromptSwap(MODEL, steps=20, solver=ReversibleHeun())
    assert torch.allclose(edit(x_0, SOURCE, SOURCE), alone(x_0, SOURCE, SOURCE), atol=1e-9)


def test_prompt_swap_is_the_edit_of_a_flow():
    flow, x_0 = ProbabilityFlow(MODEL, steps=20), points()
    assert torch.equal(EDITS[0](x_0, SOURCE, TARGET), flow.edit(flow.invert(x_0, SOURCE), TARGET))


class Tethered(ScoreModel):
    """N(mean, std^2 I) with the mean told: every answer is affine in the condition."""

    schedule, parameterization, shape = VP(), Epsilon(), (2,)

    def output(self, x_t, level, condition):
        variance = level.alpha**2 * 0.3**2 + level.sigma**2
        return level.sigma * (x_t - level.alpha * condition["mean"].to(x_t)) / variance


def mean(*values):
    return Condition({"mean": torch.tensor([values], dtype=torch.float64)})


def test_null_text_finds_the_null_condition_that_undoes_the_inversion():
    """Guided means mix as conditions do, so that it must find n = source: `NegativePrompt`."""
    model, x_0 = Tethered(), torch.tensor([[0.2, 0.9], [-1.0, 0.4]], dtype=torch.float64)
    source, target = mean(0.5, 0.5), mean(1.5, -1.0)
    edit = NullText(model, mean(0.3, 0.6), scale=4.0, steps=16, inner=30, lr=0.05)
    right = NegativePrompt(model, scale=4.0, steps=16)
    assert (edit(x_0, source, source) - x_0).abs().max() < 0.02
    plain = NullText(model, mean(0.3, 0.6), scale=4.0, steps=16, inner=1, lr=1e-9)
    assert (plain(x_0, source, source) - x_0).abs().max() > 0.3
    edited, wanted = edit(x_0, source, target), right(x_0, source, target)
    assert ((edited - wanted).norm(dim=1) / (wanted - x_0).norm(dim=1)).max() < 0.01
    assert (edited[1:] - edit(x_0[1:], source, target)).abs().max() < 1e-9


PAIR = torch.tensor([[0.2, 0.9], [-1.0, 0.4]], dtype=torch.float64)
FROM, TO, NULL = mean(0.5, 0.5), mean(1.5, -0.2), mean(0.3, 0.1)
BY_LOSS = {DDS: {}, PDS: {"identity": 0.0}, IDS: {"iterations": 1}, CDS: {"contrast": 0.0}}


@pytest.mark.parametrize("kind", BY_LOSS, ids=lambda kind: kind.__name__)
def test_an_edit_by_a_loss_rests_where_its_gradient_vanishes(kind):
    """On Gaussians of equal spread at y_0 + scale (m_c - m_c'), and a source to itself at once."""
    options = {"steps": 160, "lr": 0.1} | BY_LOSS[kind]
    edit = kind.build(Tethered(), NULL, scale=2.0, options=options)
    wanted = PAIR + 2 * (TO["mean"] - FROM["mean"])
    assert (edit(PAIR, FROM, TO) - wanted).abs().max() < 0.01
    still = kind.build(Tethered(), NULL, scale=2.0, options=options | {"steps": 3})
    assert torch.equal(still(PAIR, FROM, FROM), PAIR)


def test_the_pull_of_pds_stops_the_edit_on_its_way():
    """Its mean gradient, a (x_0' - y_0 - m_c + m_c') + identity (x_0' - y_0), by quadrature."""
    t = torch.linspace(0.05, 0.95, 2001, dtype=torch.float64)
    (alpha, sigma), below = VP()(t), VP()(t - 0.02)
    c_0, _, sd = posterior_coefficients(alpha, sigma, *below)
    slope = (c_0 * sigma / alpha / sd * sigma * alpha / (alpha**2 * 0.3**2 + sigma**2)).mean()
    options = {"steps": 200, "lr": 0.05, "stride": 0.02, "identity": 0.5}
    edit, x_0 = PDS.build(Tethered(), None, scale=1.0, options=options), PAIR[:1].expand(64, -1)
    share = ((edit(x_0, FROM, TO) - x_0) / (TO["mean"] - FROM["mean"])).mean(1)
    error = share.std() / 64**0.5
    assert error < 0.02 * share.mean()
    assert abs(share.mean() - slope / (slope + 0.5)) < 4 * error


class Attentive(Tethered):
    """The same with self-attention by name, which has a say of its own."""

    shape = (1, 2, 2)

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.attn1 = torch.nn.Linear(4, 8, dtype=torch.float64)
        self.requires_grad_(False)

    def output(self, x_t, level, condition):
        told = condition["mean"].to(x_t).mean(-1).reshape(-1, 1, 1)
        patches = torch.stack([x_t.flatten(1).roll(k, 1) for k in range(4)], 1)
        seen = self.attn1(patches + told).mean(1)[:, :4].reshape(x_t.shape)
        return x_t - told[..., None] + 0.01 * seen


def test_the_contrast_of_cds_keeps_what_its_features_tell():
    """Without it the steps are DDS's to the bit; with it the contrastive loss ends lower."""
    x_0 = PAIR.reshape(1, 1, 2, 2)
    ends = {}
    for kind, options in ((DDS, {}), (CDS, {"contrast": 0.0}), (CDS, {"contrast": 5.0})):
        edit = kind(Attentive(), scale=1, steps=60, lr=0.05, **options)
        *_, last = edit.walk(x_0, FROM, TO, generators([3], "noise"), None)
        ends[kind, options.get("contrast")] = last.x_0
    assert torch.equal(ends[DDS, None], ends[CDS, 0.0])
    loss = edit.distiller(x_0, FROM, TO)
    level = loss.model.level(0.2, x_0)
    there = loss.features(level.alpha * x_0, level, FROM)
    away = [
        float(loss.nce(loss.features(level.alpha * ends[CDS, c], level, TO), there))
        for c in (0.0, 5.0)
    ]
    assert away[1] < 0.9 * away[0]


def test_what_an_edit_by_a_loss_is_asked_for_reaches_the_loss():
    for edit, options in (
        (PDS(MODEL, stride=0.1, identity=0.2), {"stride": 0.1, "identity": 0.2}),
        (IDS(MODEL, iterations=2), {"iterations": 2}),
        (CDS(MODEL, contrast=0.0, temperature=0.2), {"contrast": 0.0, "temperature": 0.2}),
    ):
        edit.null = EVERYTHING
        loss = edit.distiller(points(), SOURCE, TARGET)
        assert type(loss) is getattr(distill, named(edit)) and loss.scale == 7.5
        assert {name: getattr(loss, name) for name in options} == options


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (PDS(MODEL, scale=1, stride=1.0), "stride is 1.0"),
        (PDS(MODEL, scale=1, identity=-1.0), "identity is -1.0"),
        (IDS(MODEL, scale=1, iterations=-1), "iterations is -1"),
        (CDS(MODEL, scale=1), "no self-attention to compare; use DDS"),
        (CDS(MODEL, scale=1, contrast=-1.0), "contrast is -1.0"),
    ],
)
def test_a_loss_s_options_are_refused_before_the_first_step(edit, message):
    with pytest.raises(ValueError, match=message):
        next(edit.steps(points(), SOURCE, TARGET))


def test_fixed_points_close_the_round_trip_of_ddim():
    """The iteration converges between modes too, where the plain one does not."""
    x_0 = points(16)
    for solver, low, high in (
        (Euler(), 1e-3, 1.0),
        (ImplicitEuler(iterations=2), 1e-5, 0.1),
        (ImplicitEuler(iterations=10), 0.0, 1e-9),
    ):
        flow = ProbabilityFlow(MODEL, steps=30, solver=solver)
        error = (flow.replay(flow.invert(x_0, SOURCE)) - x_0).norm(dim=1).median()
        assert low <= error < high
    swap = PromptSwap(MODEL, steps=5, solver=ImplicitEuler(iterations=6))
    assert torch.equal(FixedPoint(MODEL, steps=5)(x_0, SOURCE, TARGET), swap(x_0, SOURCE, TARGET))
    x_0[0] = torch.inf
    with pytest.warns(RuntimeWarning, match=r"Rows \[0\] stopped being finite"):
        assert flow.invert(x_0, SOURCE).x_T[1:].isfinite().all()


def test_an_adaptive_solver_makes_two_steps():
    jump = PromptSwap(MODEL, steps=20, solver=Dopri5(rtol=1e-2, atol=1e-2))
    assert [s.index for s in jump.steps(points(2), SOURCE, TARGET)] == [20, 40]


HALVES = [-1.0] * 8, [1.0] * 8


def halves(n=12):
    """Pictures that are dark all over or bright all over, and a mask of one half of them."""
    mixture = Mixture(HALVES, std=0.1, shape=(1, 2, 4)).under(Rectified(), Flow())
    inside = torch.zeros(1, 1, 2, 4)
    inside[..., 2:] = 1
    return mixture, torch.full((n, 1, 2, 4), 1.0, dtype=torch.float64), inside


def test_the_inside_of_a_mask_comes_to_fit_the_outside():
    """From pure noise either half may be dark; told of a bright outside, the inside is bright."""
    model, x_0, mask = halves(200)
    edit = SDEdit(model, strength=1.0, steps=12)
    told, blind = edit(x_0, None, None, mask=mask), edit(x_0, None, None)
    assert torch.equal(told[..., :2], x_0[..., :2])
    fits = (told[..., 2:].mean((1, 2, 3)) > 0.7).double().mean()
    chance = (blind[..., 2:].mean((1, 2, 3)) > 0.7).double().mean()
    error = (0.25 / 200) ** 0.5
    assert abs(chance - 0.5) < 4 * error and fits > chance + 6 * error


@pytest.mark.parametrize("solver", [ReversibleHeun(), Dopri5(), None], ids=repr)
def test_a_masked_walk_under_every_kind_of_solver(solver):
    """Outside, the flow goes straight to what is known: the blend at the end has nothing to do."""
    model, x_0, mask = halves()
    x_0 = x_0 + 0.05 * torch.linspace(-1, 1, 12).reshape(12, 1, 1, 1)
    edit = PromptSwap(model, steps=12, strength=0.95, solver=solver)
    *_, last = edit.walk(x_0, None, None, [], mask.double())
    assert (last.x_0[..., :2] - x_0[..., :2]).abs().max() < 1e-4
    alone = edit(x_0[3:5], None, None, mask=mask)
    assert (edit(x_0, None, None, mask=mask)[3:5] - alone).abs().max() < 1e-9
    assert Known(model).describe()["masked"] is True


@pytest.mark.parametrize("edit", EDITS, ids=named)
def test_every_method_keeps_the_outside_to_the_bit(edit):
    _, x_0, mask = halves()
    model = Weighted(HALVES)
    source, target = (Condition({"w": torch.full((1, 1), w)}) for w in (1.0, 3.0))
    made = {
        "PromptSwap": lambda: PromptSwap(model, steps=3),
        "NegativePrompt": lambda: NegativePrompt(model, scale=2.0, steps=3),
        "NullText": lambda: NullText(model, source, scale=2.0, steps=3),
        "FixedPoint": lambda: FixedPoint(model, steps=3),
        "SDEdit": lambda: SDEdit(model, steps=3),
        "FlowEdit": lambda: FlowEdit(model, steps=3),
        "DDPM": lambda: DDPM(model, steps=3),
        "DDS": lambda: DDS(model, scale=1, steps=3),
        "PDS": lambda: PDS(model, scale=1, steps=3),
        "IDS": lambda: IDS(model, scale=1, steps=3),
        "CDS": lambda: CDS(model, scale=1, steps=3, contrast=0.0),
    }[named(edit)]
    x_0 = x_0 + 0.01 * torch.randn(x_0.shape, dtype=torch.float64)
    steps = list(made().steps(x_0, source, target, mask=mask, seed=1))
    assert [s.index for s in steps] == list(range(1, steps[0].steps + 1))
    edited = made()(x_0, source, target, mask=mask, seed=1)
    assert torch.equal(edited, steps[-1].x_0)
    assert torch.equal(edited[..., :2], x_0[..., :2])
    assert (edited[..., 2:] - x_0[..., 2:]).abs().max() > 1e-3


class Weighted(ScoreModel):
    """The halves, with a share of the answer that a condition scales."""

    schedule, parameterization, shape = Rectified(), Flow(), (1, 2, 4)

    def __init__(self, means):
        super().__init__()
        self.model = Mixture(means, std=0.1, shape=(1, 2, 4)).under(Rectified(), Flow())

    def output(self, x_t, level, condition):
        weight = condition["w"].reshape(-1, 1, 1, 1).to(x_t) if condition else 1.0
        return self.model.output(x_t, level, None) * (0.9 + 0.1 * weight)


def test_a_mask_of_pixels_becomes_one_of_latents():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 3, 4] = 0.5
    small = shrink(mask, 4)
    assert small.shape == (1, 1, 2, 2) and small.flatten().tolist() == [0, 0.5, 0, 0]


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
        lambda: NegativePrompt(MODEL, scale=2.0, strength=0.0),
        lambda: NullText(MODEL, EVERYTHING, scale=2.0, strength=0.0),
        lambda: NullText(MODEL, EVERYTHING, scale=2.0, inner=0),
        lambda: NullText(MODEL, EVERYTHING, scale=2.0, lr=-1.0),
        lambda: FixedPoint(MODEL, iterations=0),
        lambda: DDS(MODEL, steps=0),
    ],
)
def test_options_out_of_range(make):
    with pytest.raises(ValueError, match=r"is not (in \(0, 1\]|at least 1|above 0)"):
        make()
