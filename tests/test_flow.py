"""The flow as an object: samples, inversions, edits, reports and files."""

import json
import math

import pytest
import torch
from problems_flow import LEAST, MOST, SCHEDULE, WEIGHTS, components, draws, follow, pinned

from sdstoolkit import ClassifierFree, Inverted, ProbabilityFlow
from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.grids import UniformLogSNR
from sdstoolkit.noise import Rectified
from sdstoolkit.prediction import Flow
from sdstoolkit.samplers.inverted import fingerprint
from sdstoolkit.solvers import OBELM, Dopri5, DPMSolver2M, Euler, ReversibleHeun
from sdstoolkit.toy import Mixture

MODEL = pinned().under(SCHEDULE)
SOURCE, NEAR, FAR = components(0, 1), components(1, 2), components(3, 4)


def flow(**options):
    return ProbabilityFlow(MODEL, **{"steps": 12, "solver": ReversibleHeun(), **options})


def test_a_seed_names_a_sample():
    made = flow(solver=Euler())
    together, alone = made.sample(3, seed=4), made.sample(1, seed=5)
    assert torch.allclose(together[1:2], alone, atol=1e-12)
    assert torch.equal(made.sample(2, seed=[9, 4])[1], made.sample(1, seed=4)[0])
    low = flow(solver=Euler(), dtype=torch.float32).sample(3, seed=4)
    assert low.dtype == torch.float32 and (low - together).abs().max() < 1e-4


def test_samples_are_drawn_from_the_mixture():
    """Each point is nearest to a component as often as the component weighs."""
    x_0 = ProbabilityFlow(MODEL, steps=20).sample(2000)
    near = torch.cdist(x_0, pinned().means).argmin(1).bincount(minlength=6) / 2000
    mine = pinned().sample(2000, dtype=torch.float64)
    right = torch.cdist(mine, pinned().means).argmin(1).bincount(minlength=6) / 2000
    assert (near - right).abs().max() < 0.05 and abs(float(near[5]) - float(WEIGHTS[5])) < 0.05


def test_steps_show_the_way():
    made = flow(solver=DPMSolver2M())
    steps = list(made.steps(made.noise(2), SOURCE))
    assert [s.index for s in steps] == list(range(13)) and {s.steps for s in steps} == {12}
    assert [s.t for s in steps] == made.times.tolist()
    assert [s.evaluations for s in steps] == list(range(13))
    assert steps[0].x_0 is None and steps[-1].x_0.shape == (2, 2)
    alpha = SCHEDULE(made.times[-1:])[0]
    assert torch.equal(steps[-1].x / alpha, made.sample(2, SOURCE))
    jumps = list(flow(solver=Dopri5()).steps(made.noise(1)))
    assert [s.index for s in jumps] == [0, 12] and jumps[1].t == 0


def test_a_sub_interval_there_and_back():
    made = flow(start=0.6, stop=0.2)
    x_0 = draws().data[:4]
    inverted = made.invert(x_0)
    assert (inverted.grid[0], inverted.grid[-1]) == (0.2, 0.6)
    assert (made.replay(inverted) - x_0).abs().max() < 1e-12


def test_float32_states_stay_float32():
    made = flow(dtype=torch.float32)
    inverted = made.invert(draws().data[:4])
    assert inverted.dtype == torch.float32 and inverted.companion[0].dtype == torch.float32
    assert (made.replay(inverted) - draws().data[:4]).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("solver", "target"),
    [(None, NEAR), (None, FAR), (ReversibleHeun(), NEAR)],
    ids=["near", "far", "near, reversible"],
)
def test_edits(solver, target):
    """Invert under one pair of components and sample under another, as the dense reference."""
    x_0 = _of(SOURCE, 256)
    options = {} if solver is None else {"solver": solver}
    made = ProbabilityFlow(MODEL, steps=50, **options)
    edited = made.edit(made.invert(x_0, SOURCE), target)
    latent = follow(x_0, LEAST, MOST, 200, SOURCE["weights"][0])
    right = follow(latent, MOST, LEAST, 200, target["weights"][0])
    assert (edited - right).square().sum(1).mean().sqrt() <= 1.5 * 1.4e-3


def _of(condition, n):
    mixture = pinned()
    mixture.log_weights = condition["weights"][0].log()
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    return mixture.sample(n, seed=1, dtype=torch.float64) + LEAST * noise


def test_an_edit_drops_a_companion_that_leads_astray():
    made = flow(solver=OBELM(), steps=20)
    x_0 = draws().data[:8]
    inverted = made.invert(x_0, SOURCE)
    bare = Inverted(**vars(inverted) | {"companion": ()})
    assert torch.equal(made.edit(inverted, FAR), made.edit(bare, FAR))
    assert not torch.equal(made.replay(inverted), made.replay(bare))


def test_an_edit_may_have_other_guidance_and_other_steps():
    null = components(*range(6))
    x_0 = draws().data[:8]
    inverted = flow().invert(x_0, SOURCE)
    guided = ProbabilityFlow(ClassifierFree(MODEL, null, scale=2.0), steps=30)
    assert guided.edit(inverted, FAR).shape == x_0.shape
    with pytest.raises(ValueError, match="replay it with the same guidance"):
        guided.replay(inverted)
    with pytest.raises(ValueError, match="replay it with the same solver"):
        flow(solver=Euler()).replay(inverted)


def test_an_inversion_is_a_file(tmp_path):
    made = flow()
    inverted = made.invert(draws().data[:3], components(0, 1), seed=7)
    path = inverted.save(tmp_path / "inv.safetensors")
    read = Inverted.load(path)
    assert read.seed == (7, 8, 9) and read.model == inverted.model and read.dtype == torch.float64
    assert torch.equal(made.replay(read), made.replay(inverted))
    assert torch.equal(made.edit(read, FAR), made.edit(inverted, FAR))
    plain = flow().invert(draws().data[:1])
    assert Inverted.load(plain.save(tmp_path / "plain")).condition is None


def test_files_that_are_no_inversions(tmp_path):
    from safetensors.torch import save_file

    path = flow().invert(draws().data[:3]).save(tmp_path / "inv.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        Inverted.load(cut)
    cut.write_bytes(b"")
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        Inverted.load(cut)
    other = tmp_path / "other.safetensors"
    save_file({"x_T": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="not one that Inverted.save wrote"):
        Inverted.load(other)
    with pytest.raises(FileNotFoundError, match="no file"):
        Inverted.load(tmp_path / "none")


def test_another_network_is_refused():
    inverted = flow().invert(draws().data[:2])
    other = Mixture(pinned().means + 1e-3, std=0.1).under(SCHEDULE)
    for act in ("replay", "report"):
        with pytest.raises(ValueError, match="made with another network"):
            getattr(ProbabilityFlow(other, solver=ReversibleHeun()), act)(inverted)
    with pytest.raises(ValueError, match="made with another network"):
        ProbabilityFlow(other).edit(inverted, None)
    with pytest.raises(ValueError, match=r"with weights [0-9a-f]{12}, and this is ExactScore"):
        ProbabilityFlow(other).edit(inverted, None)
    assert fingerprint(ClassifierFree(MODEL, SOURCE, scale=2.0)) == fingerprint(MODEL)


def test_every_weight_counts():
    layer = torch.nn.Linear(3000, 2)
    before = fingerprint(layer)
    with torch.no_grad():
        layer.weight[1, 1777] += 1e-3
    assert fingerprint(layer) != before and fingerprint(layer) == fingerprint(layer)
    assert fingerprint(layer.bfloat16()) not in (before, fingerprint(torch.nn.Linear(3000, 2)))


def test_steps_are_told_and_their_last_is_the_result():
    told = []
    made = flow(solver=Euler(), tell=told.append)
    steps = list(made.steps(made.noise(2)))
    assert [s.index for s in told] == list(range(1, 13))
    assert torch.equal(made.clean(steps[-1]), made.sample(2))
    told.clear()
    made.report(made.invert(draws().data[:2]), iterations=1)
    assert len(told) == 12 * 6  # up, down, up in twice the steps, and two for the gain


def test_a_report_of_a_good_inversion():
    made = ProbabilityFlow(MODEL, steps=20, solver=ReversibleHeun())
    report = made.report(made.invert(draws().data[:4], components(*range(6))))
    assert report.remarks == [] and report.scale is None
    assert report.round_trip.max() < 1e-12 < report.latent_error.max() < 0.2
    assert report.norm_z.abs().max() < 6 and report.gain.max() < 1
    text = str(report)
    assert "round trip" in text and "gain" in text and "dB" not in text
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_report_says_that_guidance_left_the_prior():
    """Round trips close at scale 7.5, with latents that no sampler would draw."""
    guided = ClassifierFree(MODEL, components(*range(6)), scale=7.5)
    made = ProbabilityFlow(guided, steps=40, solver=ReversibleHeun())
    report = made.report(made.invert(_of(components(0, 1), 16), components(0, 1)))
    assert report.scale == 7.5 and report.round_trip.max() < 1e-8
    (remark, *_) = report.remarks
    assert "the round trip is exact, but the latent's" in remark
    assert "sigma off the prior" in remark and "guidance scale of 7.5 has pushed it" in remark


def test_a_report_with_a_codec():
    mixture = Mixture(torch.zeros(1, 12), std=0.5, shape=(3, 2, 2))
    made = ProbabilityFlow(mixture.under(Rectified(), Flow()), steps=6)
    codec = Codec()
    image = torch.rand(2, 3, 2, 2)
    inverted = made.invert(codec.encode(image))
    report = made.report(inverted, codec=codec, image=image, iterations=0)
    assert report.gain is None and report.image_db.min() > 20 and "codec alone, dB" in str(report)
    assert (report.floor_db > 100).all()
    with pytest.raises(ValueError, match="give both or neither"):
        made.report(inverted, codec=codec)


def test_the_gain_of_a_gaussian_is_its_std():
    """Without noise x_0 = mu + std z, so that every direction grows by std."""
    model = Mixture([[0.5, 0.5]], std=0.3).under(Rectified(), Flow())
    made = ProbabilityFlow(model, steps=60)
    report = made.report(made.invert(torch.tensor([[0.4, 0.9]])), iterations=2)
    assert report.gain.tolist() == pytest.approx([0.3], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 1.2}, "start = 1.2 and stop = 0.0 are not"),
        ({"stop": -0.1}, "are not 0 <= stop < start <= 1"),
        ({"start": 0.3, "stop": 0.3}, "are not 0 <= stop < start <= 1"),
        ({"start": math.nan}, "are not 0 <= stop < start <= 1"),
        ({"steps": 0}, "steps = 0 is not at least 1"),
        ({"dtype": torch.bfloat16}, "is not float32 or float64"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        flow(**options)


def test_a_grid_that_does_not_reach_an_end_is_refused():
    model = pinned().under(Rectified(), Flow())
    with pytest.raises(ValueError, match="stay inside of"):
        ProbabilityFlow(model, grid=UniformLogSNR())


def test_states_that_do_not_fit():
    with pytest.raises(ValueError, match="this model takes"):
        flow().invert(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="expected a floating-point one"):
        flow().invert(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="A condition of 3 rows was given for 2"):
        flow().invert(torch.zeros(2, 2), Condition({"weights": torch.ones(3, 6) / 6}))


def test_a_row_that_stops_being_finite_is_named():
    x_T = flow().noise(3)
    x_T[1] = math.inf
    with pytest.warns(RuntimeWarning, match=r"Rows \[1\] stopped being finite"):
        states = list(flow(solver=Euler()).steps(x_T))
    assert states[-1].x[[0, 2]].isfinite().all()
