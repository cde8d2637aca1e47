"""The training loop: it resumes to the same bits, averages, clips, and says when it diverges."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sdstoolkit import cli, tracking
from sdstoolkit.toy.training import Plan, Share, fit

ROOT = Path(__file__).parent.parent


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def regression(model: nn.Module, share: Share = Share()) -> object:  # noqa: B008
    def loss(step: int, rng: torch.Generator) -> Tensor:
        x = share.of(torch.randn(16, 3, generator=rng, dtype=torch.float64))
        return (model(x)[:, 0] - x.sum(1)).square().mean()

    return loss


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("muon", [False, True])
def test_it_learns(muon: bool) -> None:
    model = network()
    history = fit(model, regression(model), Plan(steps=600, lr=2e-2, warmup=20, muon=muon))
    assert history.losses[-1] < 0.02 * history.losses[0]
    assert history.steps[-1] == 600


@pytest.mark.parametrize(("muon", "pieces"), [(False, 1), (True, 1), (False, 4)])
def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, muon: bool, pieces: int) -> None:
    plan = Plan(steps=60, lr=1e-2, save_every=20, report_every=5, muon=muon)
    straight, share = network(), Share(accumulate=pieces)
    expected = fit(straight, regression(straight, share), plan, share=share)

    class Stop(Exception):
        pass

    file, halted = tmp_path / "run.safetensors", network()
    inner = regression(halted, share)

    def until_45(step: int, rng: torch.Generator) -> Tensor:
        if step == 45:
            raise Stop
        return inner(step, rng)

    with pytest.raises(Stop):
        fit(halted, until_45, plan, checkpoint=file, share=share)
    resumed = network()
    history = fit(resumed, regression(resumed, share), plan, checkpoint=file, share=share)
    assert torch.equal(weights(resumed), weights(straight))
    assert history.losses == expected.losses and history.steps == expected.steps


def test_two_processes_take_the_step_of_one() -> None:
    """The average of the shares' gradients is the batch's: one step, computed by hand."""
    model = network()
    rng = torch.Generator()
    grads = []
    for share in (Share(), Share(0, 2), Share(1, 2)):
        model.zero_grad()
        regression(model, share)(0, rng.manual_seed(5)).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose((grads[1] + grads[2]) / 2, grads[0], rtol=1e-12)


@pytest.mark.parametrize("pieces", [2, 8])
def test_a_batch_in_pieces_takes_the_step_of_the_whole(pieces: int) -> None:
    """The same numbers are drawn, the same gradient found, and the same loss reported."""
    plan, sizes = Plan(steps=30, lr=1e-2, report_every=5), []
    whole, parted, share = network(), network(), Share(accumulate=pieces)
    expected = fit(whole, regression(whole), plan)
    inner = regression(parted, share)

    def loss(step: int, rng: torch.Generator) -> Tensor:
        sizes.append(len(share.of(torch.zeros(16))))
        return inner(step, rng)

    history = fit(parted, loss, plan, share=share)
    assert sizes == [16 // pieces] * 30 * pieces
    assert torch.allclose(weights(parted), weights(whole), rtol=1e-9)
    assert history.losses == pytest.approx(expected.losses, rel=1e-12)
    assert len(share.of(torch.zeros(16))) == 16 // pieces  # it stands at the first piece again


def test_pieces_of_processes_cover_a_batch_once() -> None:
    rows, rng = torch.arange(12), torch.Generator()
    shares = [Share(rank, 2, accumulate=3) for rank in range(2)]
    parts = [share.of(rows) for share in shares for _ in share.pieces(rng)]
    assert sorted(torch.cat(parts).tolist()) == rows.tolist()
    with pytest.raises(ValueError, match="batch of 16 .* 2 processes times 3 pieces"):
        shares[0].of(torch.arange(16))
    with pytest.raises(ValueError, match="accumulate is 0"):
        Share(accumulate=0)


def test_precision_is_of_the_products() -> None:
    with Share(precision="bfloat16").products():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        with Share(precision="float32").products():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with pytest.raises(ValueError, match="precision is 'half', expected one of auto"):
        Share(precision="half")


def test_reduce_sees_one_vector_a_step() -> None:
    """The gradients, and behind them the loss, which is reported as the processes' average."""
    seen, model = [], network()

    def reduce(v: Tensor) -> Tensor:
        seen.append(v.shape)
        return torch.cat([v[:-1], v[-1:] + 1])  # as if the others had larger losses

    plan = Plan(steps=3, lr=1e-3)
    expected = fit(network(), regression(model), plan).losses[0]  # of weights that stay
    frozen = regression(network())
    history = fit(
        model,
        lambda step, rng: frozen(step, rng) + 0 * model(torch.ones(1, 3).double()).sum(),
        plan,
        share=Share(reduce=reduce),
    )
    assert [shape.numel() for shape in seen] == [weights(model).numel() + 1] * 3
    assert history.losses[0] == pytest.approx(expected + 1, rel=1e-12)


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder."""
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = loading.EventAccumulator(str(folder))
    found.Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags}


def test_curves_are_tracked(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    model, plan = network(), Plan(steps=20, lr=1e-2, warmup=10, report_every=5, save_every=10)
    values = {"what": "test", "seed": 0, "start": None}
    kinds = ("tensorboard",)
    with tracking.Trackers(kinds, folder=tmp_path, project="test", values=values) as curves:
        history = fit(
            model,
            regression(model),
            plan,
            name="line",
            share=Share(track=curves),
            watch=lambda step: {"told": step / 2},
        )
    seen = events(tmp_path / "trackers" / "test")
    assert [step for step, _ in seen["line/loss"]] == history.steps == [5, 10, 15, 20]
    assert [v for _, v in seen["line/loss"]] == pytest.approx(history.losses, rel=1e-6)
    rates = [plan.lr * plan.rate(step - 1) for step in history.steps]
    assert [v for _, v in seen["line/learning rate"]] == pytest.approx(rates, rel=1e-6)
    assert seen["line/told"] == [(10, 5.0), (20, 10.0)]


def test_a_tracker_that_is_not_there_is_said_in_one_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    words = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    assert cli.main(["train", "moons", "--track", "wandb", *words]) == 2
    said = "sds: wandb is not installed, expected it for --track wandb: pip install wandb\n"
    assert capsys.readouterr().err == said
    assert not list(tmp_path.iterdir())
    assert cli.main(["train", "moons", "--accumulate", "2", *words]) == 2
    assert "--accumulate is no option of moons" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_of_accelerate_train_what_one_trains(tmp_path: Path) -> None:
    """The weights' change by two steps; were a process's half left out, it would be another."""
    from sdstoolkit.toy import pixels

    words = ["shapes-pixel", "--drawings", "512", "--steps", "2", "--precision", "float32"]
    line = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes"]
    line += ["2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    line += ["pipelines/train.py", *words, "--accumulate", "2", "--track", "tensorboard"]
    line += ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "two")]
    env = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained, look at") == 1
    there = ["--run", str(tmp_path / "alone"), "--out", str(tmp_path / "one")]
    assert cli.main(["train", *words, *there]) == 0
    torch.manual_seed(0)
    start = dict(pixels.unet().named_parameters())
    file = "unet/diffusion_pytorch_model.safetensors"
    one, two = (load_file(tmp_path / name / file) for name in ("one", "two"))
    moved = torch.cat([(one[key] - p.detach()).flatten() for key, p in start.items()])
    apart = torch.cat([(one[key] - two[key]).flatten() for key in start])
    assert float(apart.norm() / moved.norm()) < 0.02
    ((step, loss),) = events(tmp_path / "run" / "trackers" / "shapes-pixel")["shapes-pixel/loss"]
    kept = load_record(tmp_path / "alone" / "denoiser.safetensors")
    assert step == kept["steps"][0] == 2 and loss == pytest.approx(kept["losses"][0], rel=1e-5)


def load_record(file: Path) -> dict:
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["record"])


def test_the_average_is_the_one_of_the_docstring() -> None:
    model = network()
    trail = []

    def loss(step: int, rng: torch.Generator) -> Tensor:
        trail.append(weights(model).clone())
        return regression(model)(step, rng)

    last = []
    plan = Plan(steps=30, lr=1e-2, ema=0.9)
    fit(model, loss, plan, watch=lambda step: last.append(weights(model).clone()) or {})
    average = trail[0].clone()
    for step, after in enumerate([*trail[1:], last[-1]]):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * after
    assert torch.allclose(weights(model), average, rtol=1e-12)


def test_bad_plans_and_bad_losses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        Plan(steps=0, lr=1e-3)
    with pytest.raises(ValueError, match="lr is nan"):
        Plan(steps=1, lr=float("nan"))
    model = network()
    with pytest.raises(ValueError, match="lower the learning rate"):
        fit(
            model,
            lambda step, rng: model(torch.ones(1, 3).double()).sum() / 0,
            Plan(steps=30, lr=1),
        )
    file, other = tmp_path / "run.safetensors", nn.Linear(2, 2)
    fit(
        other,
        lambda step, rng: other(torch.ones(1, 2)).sum(),
        Plan(steps=1, lr=1.0),
        checkpoint=file,
    )
    with pytest.raises(ValueError, match="not this network's"):
        fit(network(), regression(model), Plan(steps=2, lr=1.0), checkpoint=file)
