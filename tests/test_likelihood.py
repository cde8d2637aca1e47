"""log p(x_0) along the flow against exact densities."""

import math

import pytest
import torch
from problems_flow import SCHEDULE, draws, pinned
from torch.distributions import MultivariateNormal

from sdstoolkit.codec import Codec
from sdstoolkit.likelihood import dequantize, log_likelihood
from sdstoolkit.noise import VP, Rectified
from sdstoolkit.prediction import Flow, V
from sdstoolkit.toy import Mixture


def exact(x_0):
    """The log density of x_t / alpha at t = 0."""
    alpha, _ = SCHEDULE(torch.zeros(1, dtype=torch.float64))
    model = pinned().under(SCHEDULE)
    return model.log_prob(alpha * x_0, 0.0) + 2 * alpha.log()


def true_prior(x_T):
    return pinned().under(SCHEDULE).log_prob(x_T, 1.0)


def test_the_density_of_the_pinned_mixture():
    x_0 = draws().data[:64]
    found = log_likelihood(pinned().under(SCHEDULE), x_0, steps=50, prior=true_prior)
    assert found.evaluations == 200
    assert (found.log_prob - exact(x_0)).abs().mean() <= 1.5 * 1.2e-4
    assert (found.standard_error == 0).all()


def test_the_normal_prior_is_nearly_right():
    x_0 = draws().data[:32]
    found = log_likelihood(pinned().under(SCHEDULE), x_0, steps=30)
    assert (found.log_prob - exact(x_0)).abs().mean() < 0.05


def test_probes_scatter_as_their_standard_error_says():
    x_0 = draws().data[:24]
    model = pinned().under(SCHEDULE)
    found = log_likelihood(model, x_0, steps=20, prior=true_prior, probes=16, seed=5)
    right = log_likelihood(model, x_0, steps=20, prior=true_prior)
    z = (found.log_prob - right.log_prob) / found.standard_error
    assert 0.5 < z.square().mean().sqrt() < 2
    again = log_likelihood(model, x_0[3:5], steps=20, prior=true_prior, probes=16, seed=8)
    assert torch.allclose(again.log_prob, found.log_prob[3:5])


def test_one_probe_has_no_standard_error():
    found = log_likelihood(pinned().under(SCHEDULE), draws().data[:2], steps=4, probes=1)
    assert found.standard_error.isnan().all() and found.log_prob.isfinite().all()


@pytest.mark.parametrize(
    ("schedule", "parameterization"), [(Rectified(), Flow()), (VP(), V())], ids=repr
)
def test_one_probe_is_exact_on_an_isotropic_gaussian(schedule, parameterization):
    """Every Rademacher probe sees the trace of a multiple of the identity."""
    mixture = Mixture([[0.3] * 4], std=0.5, shape=(1, 2, 2))
    x_0 = mixture.sample(3, dtype=torch.float64)
    model = mixture.under(schedule, parameterization)
    found = log_likelihood(model, x_0, steps=60, probes=1, prior=lambda x: model.log_prob(x, 1.0))
    right = MultivariateNormal(torch.full((4,), 0.3).double(), 0.25 * torch.eye(4).double())
    assert (found.log_prob - right.log_prob(x_0.flatten(1))).abs().max() < 1e-3


def test_bits_per_dimension():
    """Uniform data in [-1, 1] of 256 levels has 8 bits a number, whichever its range."""
    x_T = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    density = torch.tensor([-12 * math.log(2.0)], dtype=torch.float64)  # uniform on [-1, 1]^12
    found = log_likelihood(
        Mixture([[0.0] * 12], std=1.0, shape=(3, 2, 2)).under(SCHEDULE), x_T, steps=1
    )._replace(log_prob=density)
    assert found.bits_per_dim() == pytest.approx(8)
    assert found._replace(log_prob=0 * density).bits_per_dim(offset=8.0) == pytest.approx(8)


def test_bits_of_8_bit_images():
    """Of integers drawn evenly from 64 of 256 levels: 6 bits, by the density of the points."""
    k = torch.randint(64, 128, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    points = dequantize(k / 255, seed=3)
    assert torch.equal((256 * points).floor().long(), k) and points.dtype == torch.float64
    assert torch.equal(dequantize(k[1:] / 255, seed=4), points[1:])
    x_0 = Codec(channels=1).encode(points)
    inside = ((x_0 >= -0.5) & (x_0 < 0)).all()  # 64 to 128 of 256 in [-1, 1]
    density = torch.tensor([64 * math.log(2.0)] * 2, dtype=torch.float64)  # even on [-1/2, 0]
    model = Mixture([[0.0] * 64], std=1.0, shape=(1, 8, 8)).under(SCHEDULE)
    found = log_likelihood(model, x_0, steps=1, probes=1)._replace(log_prob=density)
    assert inside and found.bits_per_dim().tolist() == pytest.approx([6, 6])
    with pytest.raises(ValueError, match="no k / 255"):
        dequantize(points)


def test_a_bar_is_told_of_every_step():
    told = []
    log_likelihood(pinned().under(SCHEDULE), draws().data[:3], steps=4, tell=told.append)
    assert told == [3] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 1.5}, "not 0 <= stop < start <= 1"),
        ({"start": 0.2, "stop": 0.4}, "not 0 <= stop < start <= 1"),
        ({"probes": 0}, "probes = 0 is not at least 1"),
        ({"steps": 0}, "steps = 0 is not at least 1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        log_likelihood(pinned().under(SCHEDULE), draws().data[:1], **options)
