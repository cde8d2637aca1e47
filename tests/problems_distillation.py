"""Closed forms of score distillation, and a score model made of one.

    x_t = alpha x_0 + sigma eps,   r = sigma / alpha,   v = alpha^2 s^2 + sigma^2 on N(m, s^2)

The functions are the truth that the library is held against; they use nothing of it. G is the
gradient w (eps_hat - eps) of SDS.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from sdstoolkit.noise import Discrete
from sdstoolkit.prediction import Epsilon
from sdstoolkit.score import ScoreModel

STEPS = 1000

# .8 N(-.6, .25^2) + .2 N(.9, .12^2)
WEIGHTS, MEANS, STDS = (0.8, 0.2), (-0.6, 0.9), (0.25, 0.12)

# Where SDS rests on that mixture, in the noise of Stable Diffusion and with w = sigma^2, when t is
# uniform over these indices of the table. Only small times find the modes; an antimode lies
# between the two points of the last row. Published for every tenth index; then for all of them.
FIXED_POINTS = {
    range(20, 980, 10): (-0.347,),
    range(20, 500, 10): (-0.389,),
    range(20, 200, 10): (-0.548,),
    range(20, 60, 10): (-0.600, 0.894),
    range(20, 981): (-0.347,),
    range(20, 501): (-0.387,),
    range(20, 201): (-0.544,),
    range(20, 61): (-0.600, 0.891),
}


def stable_diffusion_table():
    """The cumulative product of 1 - beta, scaled linear from .00085 to .012, float64 [1000]."""
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - beta, 0)


def alpha_sigma(indices):
    """The kernel, alpha and sigma in float64, at one index of the table or several."""
    bar = stable_diffusion_table()[torch.as_tensor(indices)]
    return bar.sqrt(), (1 - bar).sqrt()


def normal_nodes(order: int):
    """Nodes and weights with sum(weight f(node)) = E f(eps) for polynomials up to 2 order - 1."""
    x, weight = np.polynomial.hermite.hermgauss(order)
    return torch.tensor(x * math.sqrt(2)), torch.tensor(weight / math.sqrt(math.pi))


def gaussian_moments(x_0, m, s, alpha, sigma, w):
    """Mean and variance over eps of G on N(m, s^2)."""
    v = alpha**2 * s**2 + sigma**2
    return w * sigma * alpha * (x_0 - m) / v, (w * alpha**2 * s**2 / v) ** 2


def guided_fixed_point(scale, m, s_c, s_0, alpha, sigma):
    """Where G rests with an unconditional N(0, s_0^2) and a conditional N(m, s_c^2)."""
    rho = (alpha**2 * s_c**2 + sigma**2) / (alpha**2 * s_0**2 + sigma**2)
    return scale * m / (scale + (1 - scale) * rho)


def collapse(tau, s, alpha, sigma, w):
    """E[G u] at x_0 = mu + tau u on N(mu, s^2): above 0, so that descent takes tau to nothing."""
    return w * sigma * alpha * tau / (alpha**2 * s**2 + sigma**2)


def mixture_log_prob(x_t, alpha, sigma):
    """The log density of the noised mixture, element by element."""
    parts = []
    for weight, m, s in zip(WEIGHTS, MEANS, STDS, strict=True):
        v = alpha**2 * s**2 + sigma**2
        norm = math.log(weight) - 0.5 * torch.log(2 * math.pi * v)
        parts.append(norm - (x_t - alpha * m) ** 2 / (2 * v))
    return torch.logsumexp(torch.stack(parts), 0)


def weighted_kl(x_0, alpha, sigma, w, order: int = 80):
    """sum_t w r KL(N(alpha x_0, sigma^2) || p_t) of the mixture, for a scalar x_0; w is [T]."""
    eps, weight = normal_nodes(order)
    x_t = alpha[:, None] * x_0 + sigma[:, None] * eps
    entropy = 0.5 * torch.log(2 * math.pi * math.e * sigma**2)
    cross = -(mixture_log_prob(x_t, alpha[:, None], sigma[:, None]) * weight).sum(1)
    return (w * sigma / alpha * (cross - entropy)).sum()


def rests(gradient: Callable, low: float, high: float, cells: int) -> list[float]:
    """Where a batched gradient goes from negative to positive: the fixed points of descent."""
    grid = torch.linspace(low, high, cells + 1, dtype=torch.float64)
    values = gradient(grid)
    found = []
    for k in range(cells):
        if values[k] < 0 <= values[k + 1]:
            a, b = grid[k], grid[k + 1]
            for _ in range(40):
                middle = (a + b) / 2
                a, b = (middle, b) if gradient(middle[None])[0] < 0 else (a, middle)
            found.append(float(a))
    return found


def kl_gradients(mu, tau, m, s, alpha, sigma):
    """r times the gradients by mu and tau of KL(q_t || p_t), q = N(mu, tau^2), p = N(m, s^2)."""
    v_p, v_q = (alpha**2 * v**2 + sigma**2 for v in (s, tau))
    r = sigma / alpha
    return r * alpha**2 * (mu - m) / v_p, r * alpha**2 * tau * (1 / v_p - 1 / v_q)


def tikhonov(y, A, m, precision):
    """argmin |A x - y|^2 / 2 + precision |x - m|^2 / 2."""
    left = A.T @ A + precision * torch.eye(A.shape[1], dtype=A.dtype)
    return torch.linalg.solve(left, A.T @ y + precision * m)


def posterior_coefficients(alpha, sigma, alpha_s, sigma_s):
    """c_0, c_1 and the deviation of q(x_s | x_t, x_0) = N(c_0 x_0 + c_1 x_t, sd^2)."""
    beta = sigma**2 - (alpha * sigma_s / alpha_s) ** 2
    c_0 = alpha_s * beta / sigma**2
    c_1 = alpha / alpha_s * sigma_s**2 / sigma**2
    return c_0, c_1, sigma_s / sigma * beta.sqrt()


def released_identity_weight(index):
    """PDS's weight of x_0 - y_0 as released: a stride of two with the beta of one step."""
    bar = stable_diffusion_table()
    before, here = bar[index - 2], bar[index]
    beta = 1 - here / bar[index - 1]
    c_0 = before.sqrt() * beta / (1 - here)
    c_1 = (1 - beta).sqrt() * (1 - before) / (1 - here)
    sd = ((1 - before) / (1 - here) * beta).sqrt()
    return float((before.sqrt() - c_0 - c_1 * here.sqrt()) / sd)


def smoothed_score(x, width):
    """grad log (p * N(0, width^2)) of the mixture."""
    x = x.clone().requires_grad_()
    zero, w = torch.zeros((), dtype=x.dtype), torch.tensor(width, dtype=x.dtype)
    (slope,) = torch.autograd.grad(mixture_log_prob(x, zero + 1, w).sum(), x)
    return slope


class Gaussian(ScoreModel):
    """The exact score of N(m, s^2 I), with m and s [rows, 1] from the condition, or 0 and 1.

    It counts the rows it is asked for.
    """

    def __init__(self, schedule=None, parameterization=None, shape=(1, 1, 1)):
        super().__init__()
        self.schedule = schedule or Discrete(stable_diffusion_table())
        self.parameterization = parameterization or Epsilon()
        self.shape = shape
        self.rows = []
        self.graphs = []

    def output(self, x_t, level, condition):
        self.rows.append(len(x_t))
        self.graphs.append(torch.is_grad_enabled())
        shape = (-1,) + (1,) * (x_t.ndim - 1)
        m, s = 0.0, 1.0
        if condition:
            m, s = (condition[k].to(x_t.dtype).reshape(shape) for k in ("m", "s"))
        v = level.alpha**2 * s**2 + level.sigma**2
        eps = level.sigma * (x_t - level.alpha * m) / v
        x_0 = (level.alpha * s**2 * x_t + level.sigma**2 * m) / v
        return self.parameterization.target(x_0, eps, level)
