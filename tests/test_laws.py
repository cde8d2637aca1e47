"""Densities beside the mixture: each against automatic differentiation or a closed form."""

import math

import pytest
import torch
from torch import Tensor

from sdstoolkit.noise import VE, VP, Rectified
from sdstoolkit.prediction import Flow
from sdstoolkit.toy import (
    POINTS,
    Empirical,
    Energy,
    Gaussian,
    Laplace,
    LogProb,
    Mixture,
    Negated,
    Product,
    StudentT,
    Tempered,
    log_prob_along,
    moons,
)

PLANE = Mixture(
    [[-1.0, 0.5], [1.5, 1.0]],
    covariances=[[[0.3, 0.1], [0.1, 0.2]], [[0.05, -0.03], [-0.03, 0.4]]],
    weights=[0.3, 0.7],
)
LAWS = {
    "gaussian": Gaussian([0.3, -0.2], covariance=[[1.0, 0.4], [0.4, 0.5]]),
    "laplace": Laplace([0.3, -0.2], 0.7),
    "student": StudentT(3.5, [0.3, -0.2], 0.8),
    "empirical": Empirical(moons(50), std=0.3),
    "energy": Energy(lambda x: (x**4).sum() / 4 + x[0] * x[1], [2]),
    "tempered": Tempered(PLANE, 2.0),
    "product": Product(PLANE, StudentT(3.0, [0.0, 0.0]), powers=(1.0, 0.5)),
    "negated": Product(PLANE, Negated(Gaussian([0.0, 0.0], 3.0), 0.5)),
}


def double(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


@pytest.mark.parametrize("name", LAWS)
def test_score_and_hessian_are_the_derivatives(name: str) -> None:
    law, x = LAWS[name], double(7, 2).requires_grad_()
    (score,) = torch.autograd.grad(law.log_prob(x).sum(), x, create_graph=True)
    assert torch.allclose(law.score(x), score, rtol=1e-9, atol=1e-9)
    if name == "laplace":  # its derivative is a point mass, which is nowhere
        assert (law.hessian(x.detach()) == 0).all()
        return
    rows = [torch.autograd.grad(score[:, d].sum(), x, retain_graph=True)[0] for d in range(2)]
    assert torch.allclose(law.hessian(x.detach()), torch.stack(rows, 1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "student", "empirical"])
def test_densities_integrate_to_one(name: str) -> None:
    law = LAWS[name]
    axis = torch.linspace(-60, 60, 1601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis[::4])
    total = law.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2 * 4
    assert total == pytest.approx(1, abs=5e-3)


def test_the_laplace_kink() -> None:
    law = Laplace([1.0], 0.5)
    assert law.score(torch.tensor([[0.9], [1.0], [1.1]])).flatten().tolist() == [2.0, 0.0, -2.0]
    x = law.sample(100_000, seed=1, dtype=torch.float64)
    assert x.mean() == pytest.approx(1, abs=0.01) and x.var() == pytest.approx(0.5, rel=0.02)


def test_noised_laplace_against_quadrature() -> None:
    law, schedule = Laplace([0.4], 0.7), VP()
    model = law.under(schedule)
    y = torch.linspace(-25, 25, 200_001, dtype=torch.float64)
    prior = law.log_prob(y[:, None]).exp()
    x = torch.tensor([[-6.0], [-0.5], [0.1], [0.35], [2.0], [9.0]], dtype=torch.float64)
    for t in (0.02, 0.3, 0.7):
        alpha, sigma = schedule(torch.tensor(t, dtype=torch.float64))
        kernel = torch.exp(-((x - alpha * y) ** 2) / (2 * sigma**2)) * prior
        density = kernel.sum(1) * (y[1] - y[0]) / (sigma * math.sqrt(2 * math.pi))
        found = model(x, t)
        assert torch.allclose(model.log_prob(x, t), density.log(), atol=1e-4)
        mean = (kernel * y).sum(1) / kernel.sum(1)
        assert torch.allclose(found.x_0[:, 0], mean, atol=1e-4)
        assert torch.allclose(alpha * found.x_0 + sigma * found.eps, x)
    with pytest.raises(ValueError, match="above 0"):
        law.under(Rectified(), Flow())(x, 0.0)


def test_student_samples_and_its_shrinking_score() -> None:
    law = StudentT(6.0, [1.0, -1.0], 0.5)
    x = law.sample(200_000, seed=2, dtype=torch.float64)
    expected = 6 / 4 * 0.25 * torch.eye(2, dtype=torch.float64)
    assert torch.allclose(x.T.cov(), expected, atol=0.02)
    norms = law.score(torch.tensor([[1.0, -0.5], [1.0, 0.5], [1.0, 49.0]])).norm(dim=1)
    assert norms[0] < norms[1] and norms[2] < norms[0] / 10


@pytest.mark.parametrize("name", POINTS)
def test_points_and_their_smoothed_law(name: str) -> None:
    points = POINTS[name](400, 3)
    assert points.shape == (400, 2) and torch.equal(points, POINTS[name](400, 3))
    assert points.mean(0).abs().max() < 0.25 and 0.7 < points.std() < 1.7
    law = Empirical(points, std=0.2)
    mixture = Mixture(points, std=0.2)
    x = 2 * double(5, 2)
    assert torch.allclose(law.log_prob(x), mixture.log_prob(x))
    for schedule in (VE(sigma_min=0.01, sigma_max=20.0), Rectified()):
        one, other = (law_.under(schedule, Flow()) for law_ in (law, mixture))
        t = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
        assert torch.allclose(one(x, t).x_0, other(x, t).x_0)
        assert torch.allclose(one(x, t).eps, other(x, t).eps)
    assert torch.allclose(law.hessian(x), mixture.hessian(x))
    assert law.sample(9, seed=1).shape == (9, 2)


def test_checkerboard_leaves_the_light_squares_empty() -> None:
    cell = (POINTS["checkerboard"](5000, 0) + 2).floor().long()
    assert ((cell[:, 0] + cell[:, 1]) % 2 == 0).all() and cell.unique(dim=0).shape == (8, 2)


def test_log_p_from_a_score() -> None:
    """Also along a path through low density, from a score that knows no constant."""
    x, a = double(20, 2), torch.tensor([-1.0, 0.5], dtype=torch.float64)
    expected = PLANE.log_prob(x) - PLANE.log_prob(a[None])
    assert torch.allclose(log_prob_along(PLANE.score, x, a), expected, atol=1e-6)
    tempered = log_prob_along(Tempered(PLANE, 2.0).score, x, a)
    assert torch.allclose(tempered, expected / 2, atol=1e-6)
    with pytest.raises(ValueError, match="one point"):
        log_prob_along(PLANE.score, x, x)


@pytest.mark.parametrize("full", [True, False])
def test_the_fast_score_is_the_slow_one(full: bool) -> None:
    K, D, n = 40, 6, 300
    root = 0.4 * double(K, D, D)
    spread = {"covariances": root @ root.mT + 0.3 * torch.eye(D, dtype=torch.float64)}
    law = Mixture(3 * double(K, D) + 5, **(spread if full else {"std": double(K, D).exp()}))
    x = law.sample(n, dtype=torch.float64)
    slow = torch.cat([law.score(row[None]) for row in x])
    assert law._suits_features(x) == full or not full
    fast = law._by_features(x)
    assert ((fast - slow).norm(dim=1) <= 1e-10 * slow.norm(dim=1).clamp(min=1)).all()
    assert not law._suits_features(x.clone().requires_grad_())  # buffers keep no graph
    far = torch.cat([x, x[:1] + 1e6])  # squares would lose all digits there
    assert not law._suits_features(far)
    assert torch.allclose(law.score(far)[:-1], slow)


def test_gaussian_and_its_parts() -> None:
    law = LAWS["gaussian"]
    assert law.mean.tolist() == pytest.approx([0.3, -0.2])
    expected = torch.tensor([[1.0, 0.4], [0.4, 0.5]], dtype=torch.float64)
    assert torch.allclose(law.covariance, expected)
    assert torch.allclose(Gaussian([0.0, 0.0], [1.0, 2.0]).covariance.diag(), expected.new([1, 4]))


def test_tails_that_cannot_be_normalised() -> None:
    for name in ("laplace", "student", "energy", "product", "negated"):
        LAWS[name].check_normalisable()
    for law in (
        Negated(Gaussian([0.0, 0.0], 1.0)),
        Product(Gaussian([0.0, 0.0], 1.0), Negated(Gaussian([0.0, 0.0], 0.5))),
        Energy(lambda x: -(x**2).sum(), [2]),
        LogProb(lambda x: -torch.log1p(x.square().sum()), [2]),  # |x|^-2 in the plane
    ):
        with pytest.raises(ValueError, match="no finite integral"):
            law.check_normalisable()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tempered(PLANE, 0.0), "temperature = 0"),
        (lambda: Tempered(PLANE, -1.0), "temperature = -1"),
        (lambda: Negated(PLANE, -1.0), "power = -1"),
        (lambda: Product(PLANE, Laplace([0.0])), "no product"),
        (lambda: Product(PLANE, powers=(1.0, 2.0)), "powers"),
        (lambda: Laplace([0.0], 0.0), "above 0"),
        (lambda: StudentT(0.0, [0.0]), "df = 0"),
        (lambda: Empirical(torch.zeros(0, 2), 0.1), "points of shape"),
        (lambda: Empirical(torch.zeros(3, 2), 0.0), "std = 0"),
        (lambda: Gaussian(torch.zeros(1, 1), 1.0), "mean has shape"),
        (lambda: LogProb(lambda x: x.sum(), []), "shape is"),
        (lambda: LAWS["student"].score(torch.zeros(3, 4)), "takes"),
        (lambda: LogProb(lambda x: x.log().sum(), [1]).log_prob(-torch.ones(2, 1)), "not finite"),
        (lambda: LogProb(lambda x: x.sqrt().sum(), [1]).score(torch.zeros(2, 1)), "not finite"),
        (lambda: moons(0), "n = 0"),
    ],
)
def test_bad_laws(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
