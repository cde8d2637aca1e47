import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdstoolkit.noise import EDM, VE, VP, Cosine, NoiseLevel, Rectified, Schedule
from sdstoolkit.prediction import (
    Epsilon,
    Flow,
    Karras,
    Parameterization,
    Prediction,
    Sample,
    Score,
    V,
)

ALL = (Epsilon(), Sample(), V(), Flow(), Score(), Karras(sigma_data=0.5))
each_parameterization = pytest.mark.parametrize("p", ALL, ids=lambda p: type(p).__name__)


def state(n: int = 4) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(2, n, 3, 2, generator=torch.manual_seed(1), dtype=torch.float64))


def level(alpha: float, sigma: float, n: int = 4) -> NoiseLevel:
    alpha, sigma = (torch.full((n, 1, 1), v, dtype=torch.float64) for v in (alpha, sigma))
    return NoiseLevel(torch.full((n,), 0.5, dtype=torch.float64), alpha, sigma)


@each_parameterization
@settings(max_examples=15, deadline=None)
@given(alpha=st.floats(0.01, 2), sigma=st.floats(0.01, 80))
def test_resolve_inverts_target(p: Parameterization, alpha: float, sigma: float) -> None:
    x_0, eps = state()
    at = level(alpha, sigma)
    x_t = at.perturb(x_0, eps)
    found = p.resolve(p.target(x_0, eps, at), x_t, at)
    scale = max(1, sigma / alpha, alpha / sigma)
    assert (found.x_0 - x_0).abs().max() < 1e-12 * scale
    assert (found.eps - eps).abs().max() < 1e-12 * scale


@each_parameterization
def test_a_wrong_output_still_explains_x_t(p: Parameterization) -> None:
    """For any output alpha x_0 + sigma eps = x_t; only the split depends on it."""
    x_t, output = state()
    at = VP().level(torch.tensor([0.01, 0.2, 0.6, 0.99], dtype=torch.float64), x_t)
    found = p.resolve(output, x_t, at)
    assert torch.allclose(at.alpha * found.x_0 + at.sigma * found.eps, x_t, atol=1e-12)
    assert torch.allclose(p.target(found.x_0, found.eps, at), output, atol=1e-12)


@each_parameterization
@settings(max_examples=10, deadline=None)
@given(shift=st.floats(-3, 3))
def test_predictions_are_affine_in_the_output(p: Parameterization, shift: float) -> None:
    x_t, output = state()
    at = level(0.8, 0.6)
    a, b, mixed = (
        p.resolve(o, x_t, at).eps
        for o in (output, output.flip(0), shift * output + (1 - shift) * output.flip(0))
    )
    assert torch.allclose(mixed, shift * a + (1 - shift) * b, atol=1e-12)


def test_identities() -> None:
    x_0, eps = state()
    at = Cosine().level(0.3, x_0)
    found = Prediction(x_t=at.perturb(x_0, eps), level=at, x_0=x_0, eps=eps)
    assert torch.equal(found.flow, eps - x_0)
    assert torch.allclose(found.score, -eps / at.sigma)
    assert torch.allclose(found.v, at.alpha * eps - at.sigma * x_0)
    tweedie = (found.x_t + at.sigma**2 * found.score) / at.alpha
    assert torch.allclose(tweedie, x_0)


def test_epsilon_and_sample_pass_the_output_through() -> None:
    x_t, output = (v.float() for v in state())
    at = VP().level(torch.tensor([0.01, 0.2, 0.6, 0.99]), x_t)
    assert torch.equal(Epsilon().resolve(output, x_t, at).eps, output)
    assert torch.equal(Sample().resolve(output, x_t, at).x_0, output)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_karras_is_edm(sigma: float) -> None:
    """D = c_skip x + c_out F with the coefficients of table 1 of Karras et al."""
    x_t, F = state()
    d = 0.5
    found = Karras(sigma_data=d).resolve(F, x_t, level(1.0, sigma))
    c_skip, c_out = d**2 / (sigma**2 + d**2), sigma * d / (sigma**2 + d**2) ** 0.5
    assert torch.allclose(found.x_0, c_skip * x_t + c_out * F, rtol=1e-12)
    scaled = Karras(sigma_data=d).resolve(F, 0.3 * x_t, level(0.3, 0.3 * sigma))
    assert torch.allclose(scaled.x_0, found.x_0) and torch.allclose(scaled.eps, found.eps)


@pytest.mark.parametrize(
    "p", [V(), Flow(), Karras(sigma_data=0.5)], ids=lambda p: type(p).__name__
)
def test_well_posed_at_both_ends(p: Parameterization) -> None:
    x_0, eps = state()
    for t in (0.0, 1.0):
        at = Rectified().level(t, x_0)
        found = p.resolve(p.target(x_0, eps, at), at.perturb(x_0, eps), at)
        assert torch.allclose(found.x_0, x_0) and torch.allclose(found.eps, eps)


@pytest.mark.parametrize("schedule", [VP(), EDM(), Cosine(), Rectified()])
@each_parameterization
def test_what_is_never_checked_needs_no_check(p: Parameterization, schedule: Schedule) -> None:
    """`everywhere` spares the check, so the determinant is far from zero wherever it is said."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    alpha, sigma = schedule(t)
    a, b = p.coefficients(NoiseLevel(t, alpha, sigma))
    if p.everywhere:
        assert (alpha * b - sigma * a).abs().min() > 0.4
    assert p.everywhere == isinstance(p, V | Flow | Karras)


@pytest.mark.parametrize(
    ("p", "t"), [(Epsilon(), 1.0), (Score(), 1.0), (Score(), 0.0), (Sample(), 0.0)]
)
def test_ill_posed_ends(p: Parameterization, t: float) -> None:
    x_t, output = state()
    at = Rectified().level(torch.tensor([0.5, 0.5, t, 0.5], dtype=torch.float64), x_t)
    message = f"{type(p).__name__} does not determine x_0 and eps at t = {t:.6g} .* V or Flow"
    with pytest.raises(ValueError, match=message):
        p.resolve(output, x_t, at)
    with pytest.raises(ValueError, match=message):
        Rectified().level(t, x_t, check=p.check)


@pytest.mark.parametrize("schedule", [EDM(), VE(sigma_min=0.01, sigma_max=50.0)])
@each_parameterization
def test_unscaled_schedules_are_well_posed(p: Parameterization, schedule: EDM) -> None:
    for t in (0.0, 1.0):
        p.check(schedule.level(t, state()[0]))


def test_options() -> None:
    assert Karras(sigma_data=0.5).describe() == {"name": "Karras", "sigma_data": 0.5}
    assert V().describe() == {"name": "V"} and V() == V() != Flow()
    with pytest.raises(ValueError, match="above 0"):
        Karras(sigma_data=0.0)
