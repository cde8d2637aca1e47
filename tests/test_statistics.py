"""Identities of the score: they hold within their standard errors, and fail where they should."""

import math

import pytest
import torch
from torch import Tensor

from sdstoolkit.statistics import (
    anomaly,
    fisher_divergence,
    fisher_information,
    fisher_metric,
    fisher_trace,
    hessian_identity,
    kernel_stein,
    kernel_stein_test,
    mean_score,
    natural_gradient,
    roc_auc,
    stein_identity,
)
from sdstoolkit.toy import Gaussian, Laplace, Mixture, StudentT

PLANE = Mixture(
    [[-1.0, 0.5], [1.5, 1.0]],
    covariances=[[[0.3, 0.1], [0.1, 0.2]], [[0.25, -0.03], [-0.03, 0.4]]],
    weights=[0.3, 0.7],
)
DRAWS = PLANE.sample(4000, seed=1, dtype=torch.float64)


def test_the_score_has_zero_mean_under_its_own_law_only() -> None:
    assert (mean_score(PLANE.score, DRAWS).z().abs() < 4).all()
    assert (mean_score(PLANE.score, DRAWS + 0.2).z().abs() > 4).any()


def test_fisher_information_of_an_isotropic_gaussian() -> None:
    D, sigma = 5, 0.6
    law = Gaussian(torch.zeros(D), sigma)
    x = law.sample(4000, seed=2, dtype=torch.float64)
    assert abs(fisher_trace(law.score, x).z(D / sigma**2)) < 4
    truth = torch.eye(D, dtype=torch.float64) / sigma**2
    assert (fisher_information(law.score, x).z(truth).abs() < 4.5).all()


def test_standard_errors_are_honest() -> None:
    law = Gaussian([0.0, 0.0], 0.5)
    x = law.sample(60_000, seed=3, dtype=torch.float64).reshape(300, 200, 2)
    z = torch.stack([fisher_trace(law.score, part).z(8.0) for part in x])
    assert z.mean() == pytest.approx(0, abs=0.25) and z.std() == pytest.approx(1, abs=0.15)


def test_the_mean_hessian_is_minus_the_fisher_information() -> None:
    assert (hessian_identity(PLANE.score, DRAWS, PLANE.hessian).z().abs() < 4).all()
    H, information = PLANE.hessian(DRAWS).mean(0), fisher_information(PLANE.score, DRAWS)
    assert ((H - information.value).abs() > 10 * information.error).any()  # without the minus
    by_autograd = hessian_identity(PLANE.score, DRAWS[:50]).value
    assert torch.allclose(by_autograd, hessian_identity(PLANE.score, DRAWS[:50], PLANE.hessian)[0])


def test_the_identity_fails_at_a_kink() -> None:
    law = Laplace([0.0], 0.5)
    x = law.sample(2000, dtype=torch.float64)
    assert float(hessian_identity(law.score, x).value) == pytest.approx(4.0)  # 1 / b^2, not 0


def test_steins_identity_for_the_right_score() -> None:
    def phi(x: Tensor) -> Tensor:
        return torch.cat([x.tanh(), (x[:, :1] * x[:, 1:]).sin()], 1)

    found = stein_identity(PLANE.score, DRAWS, phi)
    assert found.value.shape == (2, 3) and (found.z().abs() < 4).all()
    wrong = stein_identity(lambda x: PLANE.score(x) / 1.3, DRAWS, phi)
    assert (wrong.z().abs() > 6).any()


def log_normal(theta: Tensor, x: Tensor) -> Tensor:
    """N(mu, sigma^2) by mu and log sigma."""
    return -(((x[0] - theta[0]) / theta[1].exp()).square()) / 2 - theta[1]


def test_fisher_metric_and_natural_gradient_of_the_gaussian_family() -> None:
    sigma = 0.5
    theta = torch.tensor([0.3, math.log(sigma)], dtype=torch.float64)
    x = Gaussian([0.3], sigma).sample(5000, seed=4, dtype=torch.float64)
    metric = torch.tensor([[1 / sigma**2, 0.0], [0.0, 2.0]], dtype=torch.float64)
    assert (fisher_metric(log_normal, theta, x).z(metric).abs() < 4).all()
    gradient = torch.tensor([1.0, -2.0], dtype=torch.float64)
    found = natural_gradient(log_normal, theta, x, gradient)
    assert (found.z(torch.linalg.solve(metric, gradient)).abs() < 4).all()
    assert (found.error < 0.1).all()

    def twice(theta: Tensor, x: Tensor) -> Tensor:
        return -(x[0] - theta[0] - theta[1]).square() / 2

    with pytest.raises(ValueError, match="singular"):
        natural_gradient(twice, theta, x, gradient)


def test_fisher_divergence_of_two_gaussians() -> None:
    p, q = Gaussian([0.0, 0.0], 1.0), Gaussian([0.6, 0.8], 2.0)
    x = p.sample(5000, seed=5, dtype=torch.float64)
    exact = (2 * 0.75**2 + 1 / 16) / 2  # |x (1 - 1/4) + m / 4|^2 / 2
    assert abs(fisher_divergence(p.score, q.score, x).z(exact)) < 4
    assert fisher_divergence(p.score, p.score, x).value == 0


def test_fisher_divergence_does_not_see_the_weights_of_far_modes() -> None:
    p, q = (Mixture([[-5.0], [5.0]], std=0.5, weights=w) for w in ([0.5, 0.5], [0.9, 0.1]))
    x = p.sample(1000, dtype=torch.float64)
    assert fisher_divergence(p.score, q.score, x).value < 1e-6


def test_the_kernel_stein_test_accepts_the_law_and_rejects_contamination() -> None:
    x = PLANE.sample(500, seed=6, dtype=torch.float64)
    assert kernel_stein_test(PLANE.score, x, bootstraps=300).p_value > 0.05
    dirty = x.clone()
    dirty[:50] = 3 * torch.randn(50, 2, dtype=torch.float64)  # ten per cent
    found = kernel_stein_test(PLANE.score, dirty, bootstraps=300)
    assert found.p_value < 0.01 and found.statistic > found.critical
    clean, far = kernel_stein(PLANE.score, x), kernel_stein(PLANE.score, dirty)
    assert far.value > 5 * far.error.clamp(min=1e-9) * 0.4 and far.value > clean.value


def test_the_kernel_stein_test_is_wrong_as_often_as_it_says() -> None:
    law = Gaussian([0.0, 0.0], 1.0)
    x = law.sample(6000, seed=7, dtype=torch.float64).reshape(60, 100, 2)
    p = torch.tensor([kernel_stein_test(law.score, part, bootstraps=200).p_value for part in x])
    assert (p < 0.05).sum() <= 9  # 3 expected, P(more than 9) < 0.1 %
    assert 0.35 < p.mean() < 0.65


def test_stein_kernel_against_automatic_differentiation() -> None:
    x = torch.randn(4, 2, dtype=torch.float64)

    def k(a: Tensor, b: Tensor) -> Tensor:
        return (1 + (a - b).square().sum() / 0.7**2).rsqrt()

    total = 0.0
    for i in range(4):
        for j in range(4):
            if i == j:
                continue
            a, b = x[i].clone().requires_grad_(), x[j].clone().requires_grad_()
            s_a, s_b = (PLANE.score(v[None])[0].detach() for v in (a, b))
            d_a, d_b = torch.autograd.grad(k(a, b), (a, b), create_graph=True)
            trace = sum(torch.autograd.grad(d_a[d], b, retain_graph=True)[0][d] for d in range(2))
            one = s_a @ s_b * k(a, b) + s_a @ d_b + s_b @ d_a + trace
            total += float(one.detach())
    assert float(kernel_stein(PLANE.score, x, scale=0.7).value) == pytest.approx(total / 12)


def test_the_score_norm_finds_what_is_far_and_misses_what_lies_in_a_valley() -> None:
    sigma = 0.5
    law = Mixture([[-3.0, 0.0], [3.0, 0.0]], std=0.5).noised(1.0, sigma)
    score = law.score
    far = torch.tensor([[0.0, 6.0], [9.0, 1.0]], dtype=torch.float64)
    normal = law.sample(500, dtype=torch.float64)
    assert anomaly(score, normal, sigma).mean() < 1.0
    found = roc_auc(anomaly(score, normal, sigma), anomaly(score, far, sigma))
    assert found.value == 1.0
    valley = torch.zeros(1, 2, dtype=torch.float64)
    assert anomaly(score, valley, sigma) < 1e-20 and law.log_prob(valley) < -8
    heavy = StudentT(2.0, [0.0, 0.0])
    x = torch.tensor([[1.0, 0.0], [1000.0, 0.0]], dtype=torch.float64)
    near, away = anomaly(heavy.score, x, 1.0)
    assert away < 1e-4 * near


def test_roc_auc_of_two_gaussians() -> None:
    x = torch.randn(3000, dtype=torch.float64)
    found = roc_auc(x[:1500], x[1500:] + 1)
    assert abs(found.z(0.5 * (1 + math.erf(0.5)))) < 4 and found.error < 0.02
    assert roc_auc(torch.ones(3), torch.ones(3)).value == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mean_score(PLANE.score, DRAWS[:1]), "two rows"),
        (lambda: mean_score(lambda x: x / 0, DRAWS[:9]), "not finite"),
        (lambda: kernel_stein(PLANE.score, DRAWS[:9], scale=-1.0), "scale is -1"),
        (lambda: kernel_stein_test(PLANE.score, DRAWS[:9], bootstraps=0), "bootstraps = 0"),
        (lambda: anomaly(PLANE.score, DRAWS[:9], 0.0), "sigma = 0"),
        (lambda: roc_auc(torch.ones(1), torch.ones(3)), "too few"),
    ],
)
def test_bad_statistics(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
