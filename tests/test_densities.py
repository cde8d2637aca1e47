import pytest
import torch
from problems import MIXTURES, Truth, table, zero_terminal_table

from sdstoolkit.condition import Condition
from sdstoolkit.noise import EDM, VE, VP, Cosine, Discrete, Rectified, Schedule, SubVP
from sdstoolkit.prediction import Epsilon, Flow, Karras, Parameterization, Sample, Score, V
from sdstoolkit.score import combine
from sdstoolkit.toy import Mixture

SCHEDULES = (
    VP(),
    SubVP(),
    VE(sigma_min=0.01, sigma_max=50.0),
    EDM(),
    Cosine(),
    Rectified(),
    Discrete(table()),
    Discrete(zero_terminal_table()),
)
PARAMETERIZATIONS = (Epsilon(), Sample(), V(), Flow(), Score(), Karras(sigma_data=1.3))
by_name = {"ids": lambda v: type(v).__name__ if not isinstance(v, str) else v}


def mixture(truth: Truth) -> Mixture:
    return Mixture(truth.means, covariances=truth.covariances, weights=truth.weights)


def kernel(schedule: Schedule, t: float) -> tuple[float, float]:
    alpha, sigma = schedule(torch.tensor(t, dtype=torch.float64))
    return float(alpha), float(sigma)


def points(truth: Truth, alpha: float, sigma: float, n: int = 6) -> torch.Tensor:
    """Where x_t is likely to be."""
    scale = (alpha**2 + sigma**2) ** 0.5
    return 1.5 * scale * torch.randn(n, truth.means.shape[1], dtype=torch.float64)


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("schedule", SCHEDULES, **by_name)
@pytest.mark.parametrize("p", PARAMETERIZATIONS, **by_name)
def test_every_parameterization_under_every_schedule_is_exact(
    name: str, schedule: Schedule, p: Parameterization
) -> None:
    truth = MIXTURES[name]
    model = mixture(truth).under(schedule, p)
    for t in (0.004, 0.03, 0.2, 0.5, 0.8, 0.97):
        alpha, sigma = kernel(schedule, t)
        x = points(truth, alpha, sigma).requires_grad_()
        (score,) = torch.autograd.grad(truth.log_prob(x, alpha, sigma).sum(), x)
        x = x.detach()
        x_0 = truth.x_0(x, alpha, sigma)
        eps = -sigma * score
        found = model(x, t)
        for value, exact in (
            (found.x_0, x_0),
            (found.eps, eps),
            (found.score, score),
            (found.v, alpha * eps - sigma * x_0),
            (found.flow, eps - x_0),
            (model.log_prob(x, t), truth.log_prob(x, alpha, sigma)),
        ):
            assert torch.allclose(value, exact, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("p", [V(), Flow(), Karras(sigma_data=1.3)], **by_name)
def test_the_ends(p: Parameterization) -> None:
    truth = MIXTURES["plane"]
    for schedule in (Rectified(), Cosine(), Discrete(zero_terminal_table())):
        model = mixture(truth).under(schedule, p)
        x = points(truth, 1, 1)
        noise = model(x, 1.0)
        mean = truth.weights @ truth.means
        assert torch.allclose(noise.x_0, mean.expand_as(x)) and torch.allclose(noise.eps, x)
    clean = mixture(truth).under(Rectified(), p)(x, 0.0)
    assert torch.allclose(clean.x_0, x) and torch.allclose(clean.eps, torch.zeros_like(x))


@pytest.mark.parametrize("name", MIXTURES)
def test_density_score_and_hessian(name: str) -> None:
    truth = MIXTURES[name]
    law, x = mixture(truth), points(truth, 1, 0).requires_grad_()
    log_prob = truth.log_prob(x, 1, 0)
    assert torch.allclose(law.log_prob(x), log_prob)
    (score,) = torch.autograd.grad(log_prob.sum(), x, create_graph=True)
    assert torch.allclose(law.score(x), score)
    rows = [
        torch.autograd.grad(score[:, d].sum(), x, retain_graph=True)[0] for d in range(x.shape[1])
    ]
    assert torch.allclose(law.hessian(x), torch.stack(rows, 1))


def test_noised_is_the_law_of_x_t() -> None:
    truth = MIXTURES["plane"]
    law = mixture(truth).noised(0.6, 0.7)
    x = points(truth, 0.6, 0.7)
    assert torch.allclose(law.log_prob(x), truth.log_prob(x, 0.6, 0.7))
    assert torch.allclose(mixture(truth).log_prob(x), truth.log_prob(x, 1, 0))  # untouched


@pytest.mark.parametrize("std", [0.3, [0.3, 0.5, 0.9], [[0.3, 0.2], [0.5, 0.4], [0.1, 0.9]]])
def test_std_is_a_diagonal_covariance(std: object) -> None:
    means = [[-1.0, 0.5], [1.5, 1.0], [0.0, -1.2]]
    s = torch.as_tensor(std).double()
    s = (s[:, None] if s.ndim == 1 else s).expand(3, 2)
    full = Mixture(means, covariances=torch.diag_embed(s**2))
    law, x = Mixture(means, std=std), torch.randn(5, 2, dtype=torch.float64)
    assert torch.allclose(law.log_prob(x), full.log_prob(x))
    assert torch.allclose(law.score(x), full.score(x))
    assert torch.allclose(law.hessian(x), full.hessian(x))
    p, q = (m.under(VP(), V())(x, 0.3).x_0 for m in (law, full))
    assert torch.allclose(p, q)


def test_far_tails_are_finite() -> None:
    law = mixture(MIXTURES["line"])
    x = torch.tensor([[-1e4], [1e4]], dtype=torch.float64)
    assert law.log_prob(x).isfinite().all()
    expected = -(x - law.means[0]) / 0.25**2  # the widest component rules both tails
    assert torch.allclose(law.score(x), expected)
    assert law.under(VP())(x.float(), 0.001).x_0.isfinite().all()


def test_samples() -> None:
    truth = MIXTURES["plane"]
    law = mixture(truth)
    x = law.sample(200_000, seed=3)
    assert x.dtype == torch.float32 and torch.equal(x[:5], law.sample(200_000, seed=3)[:5])
    assert not torch.equal(x[:5], law.sample(200_000, seed=4)[:5])
    mean = truth.weights @ truth.means
    away = truth.means - mean
    covariance = torch.einsum("k,kij->ij", truth.weights, truth.covariances)
    covariance = covariance + torch.einsum("k,ki,kj->ij", truth.weights, away, away)
    assert torch.allclose(x.double().mean(0), mean, atol=0.01)
    assert torch.allclose(x.double().T.cov(), covariance, atol=0.02)
    assert law.sample(3, dtype=torch.float64).dtype == torch.float64


def test_conditional_weights() -> None:
    truth = MIXTURES["plane"]
    model = mixture(truth).under(VP())
    x = points(truth, 1, 1, n=3)
    weights = torch.tensor([[1.0, 0, 0], [0.2, 0.5, 0.3], [0, 0.5, 0.5]], dtype=torch.float64)
    found = model(x, 0.3, Condition({"weights": weights}))
    alpha, sigma = kernel(VP(), 0.3)
    for k in range(3):
        one = Truth(weights[k], truth.means, truth.covariances)
        assert torch.allclose(found.x_0[k], one.x_0(x[k : k + 1], alpha, sigma)[0])
    assert torch.allclose(found.x_0[1], model(x, 0.3).x_0[1])
    single = Condition({"weights": weights[1:2]})
    assert torch.allclose(model.log_prob(x, 0.3, single), model.log_prob(x, 0.3))
    for bad in (Condition({"weights": weights[:, :2]}), Condition({"text": weights})):
        with pytest.raises(ValueError, match="weights"):
            model(x, 0.3, bad)


def test_guidance_between_gaussians() -> None:
    """The root of guided SDS, scale m / (scale + (1 - scale) v_c / v_0), is a zero of eps_hat."""
    law = Mixture([[0.0], [1.0]], std=[1.0, 0.3])
    model = law.under(Discrete(table()))
    t, scale = 400 / 999, 7.5
    alpha, sigma = kernel(model.schedule, t)
    rho = (alpha**2 * 0.09 + sigma**2) / (alpha**2 + sigma**2)
    rest = scale / (scale + (1 - scale) * rho)
    assert rest == pytest.approx(2.136, abs=2e-3)
    null, cond = (Condition({"weights": torch.eye(2)[k : k + 1].double()}) for k in (0, 1))
    x_t = torch.tensor([[alpha * rest]], dtype=torch.float64)
    guided = combine(model, x_t, t, (cond, null), (scale, 1 - scale))
    assert guided.eps.abs().max() < 1e-12


def test_images_and_dtypes() -> None:
    law = Mixture(torch.randn(2, 48), std=0.2, shape=(3, 4, 4))
    assert law.sample(5).shape == (5, 3, 4, 4)
    model = law.under(Rectified(), Flow())
    assert model.shape == (3, 4, 4)
    x = torch.randn(5, 3, 4, 4)
    low, high = model(x, 0.4), model(x.double(), 0.4)
    assert low.x_0.dtype == torch.float32 and low.x_0.shape == x.shape
    assert torch.allclose(low.x_0, high.x_0.float(), atol=1e-5)
    assert law.hessian(x).shape == (5, 48, 48) and law.score(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"means": [0.0, 1.0], "std": 1.0}, "means"),
        ({"means": [[0.0], [1.0]]}, "one of std and covariances"),
        ({"means": [[0.0]], "std": 1.0, "covariances": [[1.0]]}, "one of std and covariances"),
        ({"means": [[0.0], [1.0]], "std": -1.0}, "not above 0"),
        ({"means": [[0.0], [1.0]], "std": [1.0, 1.0, 1.0]}, "std has shape"),
        ({"means": [[0.0], [1.0]], "std": 1.0, "weights": [0.5, 0.6]}, "shares"),
        ({"means": [[0.0], [1.0]], "std": 1.0, "weights": [1.5, -0.5]}, "shares"),
        ({"means": [[0.0], [1.0]], "std": 1.0, "weights": [1.0]}, "shares"),
        ({"means": [[0.0, 1.0]], "covariances": [[1.0, 2.0], [2.0, 1.0]]}, "not above 0"),
        ({"means": [[0.0, 1.0]], "covariances": [[1.0, 0.5], [0.0, 1.0]]}, "symmetric"),
        ({"means": [[0.0, 1.0]], "covariances": [1.0, 1.0]}, "symmetric"),
        ({"means": [[0.0, 1.0]], "std": 1.0, "shape": (3,)}, "does not hold"),
    ],
)
def test_bad_mixtures(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(**options)
