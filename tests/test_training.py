"""The training loop: it resumes to the same bits, averages, clips, and says when it diverges."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdstoolkit.toy.training import Plan, Share, fit


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


@pytest.mark.parametrize("muon", [False, True])
def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, muon: bool) -> None:
    plan = Plan(steps=60, lr=1e-2, save_every=20, report_every=5, muon=muon)
    straight = network()
    expected = fit(straight, regression(straight), plan)

    class Stop(Exception):
        pass

    file, halted = tmp_path / "run.safetensors", network()
    inner = regression(halted)

    def until_45(step: int, rng: torch.Generator) -> Tensor:
        if step == 45:
            raise Stop
        return inner(step, rng)

    with pytest.raises(Stop):
        fit(halted, until_45, plan, checkpoint=file)
    resumed = network()
    history = fit(resumed, regression(resumed), plan, checkpoint=file)
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


def test_reduce_sees_one_vector_a_step() -> None:
    seen, model = [], network()

    def reduce(v: Tensor) -> Tensor:
        seen.append(v.shape)
        return v

    fit(model, regression(model), Plan(steps=3, lr=1e-3), reduce=reduce)
    assert seen == [weights(model).shape] * 3


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
