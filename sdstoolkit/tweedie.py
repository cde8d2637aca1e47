"""What a noisy state tells about the clean one: Tweedie's formula and what follows from it.

With x_t = alpha x_0 + sigma eps (Robbins, 1956; Efron, 2011,
https://doi.org/10.1198/jasa.2011.tm11181),

    E[x_0 | x_t] = (x_t + sigma^2 s(x_t)) / alpha,   s = grad log p_t,
    Cov[x_0 | x_t] = (sigma^2 / alpha) d E[x_0 | x_t] / d x_t.

So a score model is a denoiser, and its derivative says how uncertain it is. To denoise an image
is to read the first line at the level where its noise belongs: y = x_0 + r eps is x_t / alpha at
the time where sigma / alpha = r. That is right for Gaussian noise in the model's own space, which
a latent model's noise in pixels is not.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdstoolkit._typing import Image, Rows, State
from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel

__all__ = [
    "Denoised",
    "denoise",
    "denoise_image",
    "estimate_sigma",
    "posterior_covariance_product",
    "posterior_mean",
]


def posterior_mean(
    model: ScoreModel,
    x_t: State,
    t: float | Tensor | NoiseLevel,
    condition: Condition | None = None,
) -> State:
    """The posterior mean, E[x_0 | x_t] = (x_t + sigma^2 s) / alpha. One network evaluation a row.

    Args:
        model: the score model.
        x_t: noisy states, [n, *shape].
        t: time in [0, 1], one for all rows or [n]; or a level.
        condition: of 1 or n rows.

    Raises:
        ValueError: as `ScoreModel.forward`.
    """
    return model(x_t, t, condition).x_0


def posterior_covariance_product(
    model: ScoreModel,
    x_t: State,
    t: float | Tensor | NoiseLevel,
    v: Tensor,
    condition: Condition | None = None,
    *,
    forward: bool = False,
) -> State:
    """The posterior covariance times a vector, Cov[x_0 | x_t] v, never as a matrix.

        Cov[x_0 | x_t] v = (sigma^2 / alpha) J v,   J = d E[x_0 | x_t] / d x_t

    The exact J is symmetric, so that J^T v, one backward pass, is the same. A network's is so
    only nearly; `forward=True` gives J v itself by forward differentiation, for which attention
    runs in its plain form, the others having no such derivative. One network evaluation and one
    pass of about twice its cost.

    Args:
        model: the score model.
        x_t: noisy states, [n, *shape].
        t: time in [0, 1], one for all rows or [n], where there is signal; or a level.
        v: vectors, [n, *shape].
        condition: of 1 or n rows.
        forward: J v instead of J^T v.

    Raises:
        ValueError: v has another shape, or as `ScoreModel.forward`.
    """
    if v.shape != x_t.shape:
        raise ValueError(f"v has shape {list(v.shape)}; expected x_t's, {list(x_t.shape)}.")
    level = model.level(t, x_t)

    def mean(x: Tensor) -> Tensor:
        return model(x, level, condition).x_0

    if forward:
        with sdpa_kernel(SDPBackend.MATH):
            product = torch.func.jvp(mean, (x_t.detach(),), (v,))[1]
    else:
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            (product,) = torch.autograd.grad(mean(x), x, v)
    return level.sigma**2 / level.alpha * product.detach()


class Denoised(NamedTuple):
    """A denoised state or image.

    Attributes:
        x_0: the posterior mean; of `denoise_image`, the image.
        sigma: the noise it was taken to have, a number a row, [n].
        t: the times at which the model was asked, float64 [n].
    """

    x_0: Tensor
    sigma: Tensor
    t: Tensor


def denoise(
    model: ScoreModel, y: State, sigma: float | Tensor, condition: Condition | None = None
) -> Denoised:
    """Remove Gaussian noise of a known size, E[x_0 | y] with y = x_0 + sigma eps.

        x_0_hat(alpha y, t),   t where sigma_t / alpha_t = sigma

    One network evaluation a row, without a graph.

    Args:
        model: the score model.
        y: noisy states, [n, *shape], in the model's space.
        sigma: standard deviation of the noise in the model's units, one or [n]; above 0.
        condition: of 1 or n rows.

    Raises:
        ValueError: sigma is not above 0, or less or more than the schedule reaches.
    """
    r = torch.as_tensor(sigma, dtype=torch.float64).cpu()
    if not (r > 0).all() or r.ndim > 1:
        raise ValueError(f"sigma = {r.tolist()} is not one number above 0, or one a row.")
    with torch.no_grad():
        t = model.schedule.time(-2 * r.log())
        level = model.level(t, y)
        return Denoised(model(level.alpha * y, level, condition).x_0, r.expand(len(y)), level.t)


def estimate_sigma(image: Image) -> Rows:
    """The noise in images, from their finest diagonal details: median |d| / 0.6745, [n].

        d = (x_00 - x_01 - x_10 + x_11) / 2   over the 2 x 2 blocks

    A Haar wavelet's diagonal coefficient has the noise's own standard deviation, and the median
    does not see the few that lie on edges (Donoho and Johnstone, 1994,
    https://doi.org/10.1093/biomet/81.3.425). Fine texture counts as noise, and noise that was
    smoothed, as in a JPEG, is underrated.

    Args:
        image: [n, c, h, w] in [0, 1], h and w at least 2.

    Raises:
        ValueError: an image smaller than 2 x 2.
    """
    h, w = image.shape[-2:]
    if h < 2 or w < 2:
        raise ValueError(f"Noise is estimated from blocks of 2 x 2; the image has {h} x {w}.")
    block = image[..., : h - h % 2, : w - w % 2]
    top, bottom = block[..., ::2, :], block[..., 1::2, :]
    d = (top[..., ::2] - top[..., 1::2] - bottom[..., ::2] + bottom[..., 1::2]) / 2
    return d.abs().flatten(1).median(1).values / 0.6745


def denoise_image(
    prior: Prior, image: Image, sigma: float | None = None, condition: Condition | None = None
) -> Denoised:
    """Remove Gaussian noise from images; blind, with the noise estimated, if sigma is not given.

    The codec's x_0 = 2 image - 1 doubles the noise: sigma here is in the units of images in
    [0, 1]. One network evaluation a row. The result is not clipped; it says which sigma was used.

    Args:
        prior: a prior over pixels.
        image: noisy images, [n, c, h, w], about [0, 1], and not clipped, if that can be had.
        sigma: standard deviation of the noise in the units of the image, above 0; None estimates
            it for each image by `estimate_sigma`.
        condition: of 1 or n rows.

    Raises:
        ValueError: a latent model, in whose space such noise is not Gaussian; sigma is not above
            0, or outside of what the schedule reaches.
    """
    if type(prior.codec) is not Codec:
        raise ValueError(
            f"{type(prior.codec).__name__} maps images to another space, where their noise is "
            "not Gaussian; denoising needs a model of pixels."
        )
    if sigma is not None and not 0 < sigma < math.inf:
        raise ValueError(f"sigma = {sigma} is not a finite number above 0.")
    if sigma is None:
        noise = estimate_sigma(image).double()
    else:
        noise = torch.full((len(image),), sigma, dtype=torch.float64)
    found = denoise(prior.score, prior.codec.encode(image), 2 * noise, condition)
    return Denoised(prior.codec.decode(found.x_0), noise, found.t)
