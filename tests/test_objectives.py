"""Each objective's minimiser on a Gaussian, with its standard error, and training by all of them.

A linear field and a Gaussian score model have so few parameters that Newton's method finds the
minimiser of an average over a fixed sample exactly. Its standard error is H^-1 C H^-1, with C the
covariance of the gradient over parts of the sample.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn

from sdstoolkit.noise import VE, VP, NoiseLevel, Rectified, Schedule
from sdstoolkit.prediction import Epsilon, Flow, Karras, Parameterization, Score, V
from sdstoolkit.score import ScoreModel
from sdstoolkit.toy import Gaussian, Mixture, MLPScore, train
from sdstoolkit.toy.objectives import (
    Continuous,
    Denoising,
    Explicit,
    FlowMatching,
    Hyvarinen,
    NoiseConditional,
    Sliced,
    likelihood_weight,
)

LAW = Gaussian([0.5, -0.3], covariance=[[1.0, 0.3], [0.3, 0.6]])
PARTS, ROWS = 30, 200
Make = Callable[[Tensor], object]


def minimiser(objective: object, make: Make, theta: Tensor, data: Tensor, rounds: int):
    """The minimiser and its standard error, by Newton's method."""
    parts = data.reshape(PARTS, -1, data.shape[1])

    def part(k: int, at: Tensor) -> Tensor:
        return objective(make(at), parts[k], Generator().manual_seed(k)).mean()

    def whole(at: Tensor) -> Tensor:
        return torch.stack([part(k, at) for k in range(PARTS)]).mean()

    for _ in range(rounds):
        H = torch.autograd.functional.hessian(whole, theta)
        theta = theta - torch.linalg.solve(H, torch.autograd.functional.jacobian(whole, theta))
    grads = []
    for k in range(PARTS):
        at = theta.clone().requires_grad_()
        grads.append(torch.autograd.grad(part(k, at), at)[0])
    inverse = torch.linalg.inv(H)
    covariance = inverse @ torch.stack(grads).T.cov() @ inverse / PARTS
    return theta, covariance.diagonal().sqrt()


def linear(theta: Tensor) -> Callable[[Tensor], Tensor]:
    A, b = theta[:4].reshape(2, 2), theta[4:]
    return lambda x: b - x @ A.T


def parameters_of(law: Gaussian) -> Tensor:
    A = torch.linalg.inv(law.covariance)
    return torch.cat([A.flatten(), A @ law.mean])


@pytest.mark.parametrize(
    "objective",
    [
        Explicit(LAW.score),
        Hyvarinen(),
        Hyvarinen(probes=1),
        Sliced(),
        Sliced(probes=2, reduced=True),
        Denoising(0.4),
    ],
    ids=["explicit", "hyvarinen", "hutchinson", "sliced", "sliced-vr", "denoising"],
)
def test_minimisers_of_the_objectives_without_levels(objective: object) -> None:
    data = LAW.sample(PARTS * ROWS, seed=3, dtype=torch.float64)
    found, error = minimiser(objective, linear, torch.zeros(6).double(), data, 1)
    law = LAW
    if isinstance(objective, Denoising):  # it finds p_sigma, not p
        law = Gaussian(LAW.mean, covariance=LAW.covariance + 0.16 * torch.eye(2))
        assert ((found - parameters_of(LAW)).abs() > 3 * error).any()
    assert ((found - parameters_of(law)).abs() <= 3 * error.clamp(min=1e-9)).all()
    assert (error < 0.2).all()


def test_without_sigma_before_it_the_minimiser_is_sigma_times_the_score() -> None:
    sigma = 0.4

    def lost(model, x, rng):
        eps = torch.randn(x.shape, generator=rng, dtype=x.dtype)
        return (model(x + sigma * eps) + eps).square().sum(1) / (2 * sigma**2)

    data = LAW.sample(PARTS * ROWS, seed=4, dtype=torch.float64)
    found, error = minimiser(lost, linear, torch.zeros(6).double(), data, 1)
    noised = Gaussian(LAW.mean, covariance=LAW.covariance + sigma**2 * torch.eye(2))
    assert ((found - sigma * parameters_of(noised)).abs() <= 3 * error).all()
    assert ((found - parameters_of(noised)).abs() > 10 * error).any()


class LearnedGaussian(ScoreModel):
    """The exact score model of N(theta_0, exp(2 theta_1)), differentiable by theta."""

    def __init__(self, theta: Tensor, schedule: Schedule, p: Parameterization) -> None:
        super().__init__()
        self.theta, self.schedule, self.parameterization, self.shape = theta, schedule, p, (1,)

    def output(self, x_t: Tensor, level: NoiseLevel, condition: object) -> Tensor:
        mean, S = self.theta[0], (2 * self.theta[1]).exp()
        pull = (x_t - level.alpha * mean) / (level.alpha**2 * S + level.sigma**2)
        x_0 = mean + level.alpha * S * pull
        return self.parameterization.target(x_0, level.sigma * pull, level)


@pytest.mark.parametrize(
    ("objective", "schedule", "p"),
    [
        (FlowMatching(), Rectified(), Flow()),
        (Continuous(), Rectified(), Flow()),
        (Continuous(), VP(), V()),
        (Continuous(), VP(), Epsilon()),
        (Continuous(), VE(sigma_min=0.05, sigma_max=5.0), Karras(sigma_data=0.8)),
        (Continuous(), VE(sigma_min=0.05, sigma_max=5.0), Score()),
        (Continuous(weight=likelihood_weight, t_min=0.01), VP(), V()),
        (Continuous(weight=likelihood_weight, importance=False, t_min=0.05), VP(), V()),
        (NoiseConditional(8), VE(sigma_min=0.05, sigma_max=5.0), Score()),
    ],
    ids=["flow", "rf", "vp-v", "vp-eps", "ve-karras", "ve-score", "likelihood", "plain", "ncsn"],
)
def test_minimisers_at_all_levels(
    objective: object, schedule: Schedule, p: Parameterization
) -> None:
    truth = torch.tensor([0.4, math.log(0.8)], dtype=torch.float64)
    data = Gaussian([0.4], 0.8).sample(PARTS * ROWS, seed=5, dtype=torch.float64)

    def make(theta: Tensor) -> ScoreModel:
        return LearnedGaussian(theta, schedule, p)

    found, error = minimiser(objective, make, truth + 0.05, data, 3)
    assert ((found - truth).abs() <= 3 * error).all() and (error < 0.1).all()


class Net(nn.Module):
    """A small smooth field in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_gradients_of_hutchinson_and_the_exact_trace_agree_in_expectation() -> None:
    net, x = Net(), LAW.sample(20, seed=6, dtype=torch.float64)

    def gradient(objective: object, seed: int) -> Tensor:
        loss = objective(net, x, Generator().manual_seed(seed)).mean()
        grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
        return torch.cat([g.flatten() for g in grads if g is not None])

    exact = gradient(Hyvarinen(), 0)
    for objective in (Hyvarinen(probes=1), Sliced(reduced=True), Sliced()):
        many = torch.stack([gradient(objective, seed) for seed in range(250)])
        error = many.std(0) / math.sqrt(250)
        assert ((many.mean(0) - exact).abs() <= 4.5 * error + 1e-12).all()


def test_denoising_is_explicit_score_matching_up_to_a_constant() -> None:
    """L_DSM(a) - L_DSM(b) = sigma^2 (L_SM(a) - L_SM(b)) under p_sigma, for any two fields."""
    sigma, rng = 0.5, Generator()
    noised = LAW.noised(1.0, sigma)
    fields = [linear(theta) for theta in torch.randn(2, 6, dtype=torch.float64)]
    x = LAW.sample(40_000, seed=7, dtype=torch.float64)
    dsm = [Denoising(sigma)(f, x, rng.manual_seed(1)) for f in fields]
    x_t = noised.sample(40_000, seed=8, dtype=torch.float64)
    sm = [sigma**2 * Explicit(noised.score)(f, x_t, rng) for f in fields]
    left, right = dsm[0] - dsm[1], sm[0] - sm[1]
    error = math.sqrt((left.var() + right.var()) / len(x))
    assert abs(left.mean() - right.mean()) <= 3.5 * error


def test_importance_sampling_changes_no_mean_and_lowers_the_variance() -> None:
    model = LearnedGaussian(torch.tensor([0.0, 0.3]).double(), VP(), V())
    x = Gaussian([0.4], 0.8).sample(20_000, seed=9, dtype=torch.float64)
    rows = {
        importance: Continuous(weight=likelihood_weight, importance=importance, t_min=1e-3)(
            model, x, Generator().manual_seed(2)
        )
        for importance in (True, False)
    }
    error = math.sqrt(sum(float(v.var()) for v in rows.values()) / len(x))
    assert abs(rows[True].mean() - rows[False].mean()) <= 3.5 * error
    assert rows[True].var() < 0.5 * rows[False].var()


@pytest.mark.parametrize(
    ("schedule", "p"),
    [
        (VE(sigma_min=0.01, sigma_max=10.0), Karras(sigma_data=2.0)),
        (VE(sigma_min=0.01, sigma_max=10.0), Score()),
        (Rectified(), Flow()),
        (VP(), V()),
    ],
    ids=["ve-karras", "ve-score", "rectified-flow", "vp-v"],
)
def test_a_small_network_learns(schedule: Schedule, p: Parameterization) -> None:
    target = Mixture([[-2.0, 0.0], [2.0, 1.0]], std=0.3, weights=[0.3, 0.7])
    model = MLPScore(2, schedule, p, width=32, depth=2, sigma_data=2.0, seed=1)
    again = MLPScore(2, schedule, p, width=32, depth=2, sigma_data=2.0, seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    exact = target.under(schedule, p)
    x_0 = target.sample(1000, seed=2)

    def error() -> float:
        t = torch.linspace(0.05, 0.95, 1000, dtype=torch.float64)
        level = schedule.level(t, x_0)
        x_t = level.perturb(x_0, torch.randn_like(x_0))
        with torch.no_grad():
            away = model(x_t, level).x_0 - exact(x_t, level).x_0
        return float(away.square().mean().sqrt() / exact(x_t, level).x_0.square().mean().sqrt())

    before = error()
    trained, history = train(
        model, target.sample(4000), steps=250, batch=128, lr=1e-2, warmup=20, ema=0.98
    )
    assert trained is model and history.steps[-1] == 250
    assert history.losses[-1] < history.losses[0]
    assert error() < min(0.4 * before, 0.2)


def test_fields_without_levels_are_trained_by_the_same_function() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(2, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.map(x)

    data = LAW.sample(5000, seed=10, dtype=torch.float64)
    field, _ = train(Linear(), data, Hyvarinen(), steps=300, batch=256, lr=3e-2, ema=0.95)
    assert torch.allclose(-field.map.weight, torch.linalg.inv(LAW.covariance), atol=0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Denoising(0.0), "sigma = 0"),
        (lambda: Hyvarinen(probes=-1), "probes = -1"),
        (lambda: Sliced(probes=0), "probes = 0"),
        (lambda: NoiseConditional(1), "no ladder"),
        (lambda: NoiseConditional(start=0.1, stop=0.5), "no ladder"),
        (lambda: Continuous(t_min=0.5, t_max=0.5), "range"),
        (lambda: MLPScore(0, VP(), V()), "dim = 0"),
        (lambda: MLPScore(2, VP(), V(), sigma_data=-1.0), "sigma_data = -1"),
        (lambda: train(MLPScore(2, VP(), V()), torch.zeros(0, 2)), "finite rows"),
        (
            lambda: train(MLPScore(2, VP(), V()), torch.zeros(9, 2), FlowMatching(), steps=1),
            "straight path",
        ),
    ],
)
def test_bad_objectives(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
