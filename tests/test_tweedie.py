"""Posterior means and covariances against the Gaussian's, and denoising in the image's units."""

import pytest
import torch
from torch import Tensor

from sdstoolkit.codec import Codec
from sdstoolkit.noise import EDM, VP
from sdstoolkit.prediction import V
from sdstoolkit.prior import Prior
from sdstoolkit.toy import Gaussian, Mixture
from sdstoolkit.tweedie import (
    denoise,
    denoise_image,
    estimate_sigma,
    posterior_covariance_product,
    posterior_mean,
)

LAW = Gaussian([0.3, -0.2], covariance=[[1.0, 0.4], [0.4, 0.5]])


def kernel(t: float) -> tuple[float, float]:
    alpha, sigma = VP()(torch.tensor(t, dtype=torch.float64))
    return float(alpha), float(sigma)


@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_gaussian_posterior(t: float) -> None:
    model, (alpha, sigma) = LAW.under(VP(), V()), kernel(t)
    S, one = LAW.covariance, torch.eye(2, dtype=torch.float64)
    gain = alpha * S @ torch.linalg.inv(alpha**2 * S + sigma**2 * one)
    x, v = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    mean = LAW.mean + (x - alpha * LAW.mean) @ gain.T
    assert torch.allclose(posterior_mean(model, x, t), mean)
    covariance = S - alpha * gain @ S
    for forward in (False, True):
        found = posterior_covariance_product(model, x, t, v, forward=forward)
        assert torch.allclose(found, v @ covariance) and not found.requires_grad


def test_mixture_posterior_covariance_by_enumeration() -> None:
    """Points with hardly any spread: the posterior is a table of weights."""
    y = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    model, t = Mixture(y, std=1e-4).under(VP()), 0.5
    alpha, sigma = kernel(t)
    x = torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    rho = (-(x - alpha * y).square().sum(1) / (2 * sigma**2)).softmax(0)
    away = y - rho @ y
    covariance = torch.einsum("k,ki,kj->ij", rho, away, away)
    found = torch.cat([posterior_covariance_product(model, x, t, e[None]) for e in torch.eye(2)])
    assert torch.allclose(found, covariance, atol=1e-6)


def test_denoising_at_a_known_sigma() -> None:
    model = LAW.under(EDM())
    x_0 = LAW.sample(4000, seed=1, dtype=torch.float64)
    eps = torch.randn_like(x_0)
    for sigma in (0.1, 0.5, 2.0):
        found = denoise(model, x_0 + sigma * eps, sigma)
        S = LAW.covariance
        rest = torch.linalg.inv(torch.linalg.inv(S) + torch.eye(2).double() / sigma**2)
        error = (found.x_0 - x_0).square().sum(1).mean()
        assert error == pytest.approx(float(rest.trace()), rel=0.06)
    sigmas = torch.tensor([0.1, 0.5], dtype=torch.float64)
    both = denoise(model, x_0[:2], sigmas)
    assert torch.allclose(both.x_0[1], denoise(model, x_0[1:2], 0.5).x_0[0])
    for bad, message in ((0.0, "above 0"), (1e4, "not within"), (float("nan"), "above 0")):
        with pytest.raises(ValueError, match=message):
            denoise(model, x_0[:2], bad)


def scene(n: int = 3, size: int = 32) -> Tensor:
    axis = torch.linspace(0, 1, size)
    ramp = 0.2 + 0.3 * axis[:, None] + 0.3 * axis[None, :]
    disc = ((axis[:, None] - 0.5) ** 2 + (axis[None, :] - 0.5) ** 2 < 0.09).float()
    return (0.7 * ramp + 0.3 * disc).expand(n, 1, size, size)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3])
def test_noise_is_estimated_through_edges(sigma: float) -> None:
    image = scene()
    found = estimate_sigma(image + sigma * torch.randn_like(image))
    assert torch.allclose(found, torch.full((3,), sigma), rtol=0.15)
    assert estimate_sigma(image[..., :31, :31]).shape == (3,)


def test_an_image_is_denoised_in_its_own_units() -> None:
    size, spread = 16, 0.15  # the law of images: a flat grey with independent pixels
    law = Gaussian(torch.zeros(size * size), 2 * spread, shape=(1, size, size))
    prior = Prior(law.under(EDM()), Codec(channels=1))
    clean = prior.codec.decode(law.sample(8, seed=2))
    sigma = 0.1
    noisy = clean + sigma * torch.randn_like(clean)
    found = denoise_image(prior, noisy, sigma)
    expected = 0.5 + (noisy - 0.5) * spread**2 / (spread**2 + sigma**2)
    assert torch.allclose(found.x_0, expected, atol=1e-5)
    assert found.sigma.tolist() == [sigma] * 8

    soft = Prior(Gaussian(scene(1).flatten() * 2 - 1, 0.01, shape=(1, 32, 32)).under(EDM()),
                 Codec(channels=1))  # fmt: skip
    noisy = scene(2) + sigma * torch.randn(2, 1, 32, 32)
    blind = denoise_image(soft, noisy)
    assert blind.sigma.tolist() == pytest.approx([sigma] * 2, rel=0.15)
    assert (blind.x_0 - scene(2)).square().mean() < 0.05 * (noisy - scene(2)).square().mean()


def test_pixel_noise_is_refused_in_another_space() -> None:
    class Latent(Codec):
        pass

    prior = Prior(Gaussian(torch.zeros(4), 1.0, shape=(1, 2, 2)).under(EDM()), Latent(channels=1))
    with pytest.raises(ValueError, match="model of pixels"):
        denoise_image(prior, torch.rand(1, 1, 2, 2), 0.1)
    with pytest.raises(ValueError, match="sigma = -1"):
        denoise_image(Prior(prior.score, Codec(channels=1)), torch.rand(1, 1, 2, 2), -1.0)
    with pytest.raises(ValueError, match="blocks of 2 x 2"):
        estimate_sigma(torch.rand(1, 1, 1, 5))
    with pytest.raises(ValueError, match="v has shape"):
        posterior_covariance_product(LAW.under(VP()), torch.zeros(2, 2), 0.5, torch.zeros(1, 2))
