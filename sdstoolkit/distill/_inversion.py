"""DDIM steps in which every row has a time of its own.

    x_s = alpha_s x_0_hat(x_t) + sigma_s eps_hat(x_t)

Upwards it inverts: x_0 stands for x / alpha at the lowest time, as in the probability flow. What
the flow carries up has the spread of noise only where it had it there: along directions in which
the data have no width of their own, x_t / sigma stays what it was. An image as it is begins with
none of it; a draw of the lowest level's noise begins with all.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prediction import Prediction
from sdstoolkit.rng import normal
from sdstoolkit.score import ScoreModel

__all__ = ["LOWEST", "check_stride", "invert"]

LOWEST = 1e-3  # where inversions begin; every parameterisation is well-posed there
NOISY = 0.02  # where they begin with noise, which the network has to see

Predict = Callable[[Tensor, NoiseLevel], Prediction]


def invert(
    predict: Predict,
    model: ScoreModel,
    x_0: State,
    level: NoiseLevel,
    *,
    stride: float,
    eta: float = 0.0,
    rng: Sequence[Generator] = (),
    eps: State | None = None,
) -> State:
    """x_t of x_0 by DDIM steps up the flow, [n, *shape].

        x_s = alpha_s x_0_hat + sigma_s (sqrt(1 - eta^2 v) eps_hat + eta sqrt(v) z),
        v = 1 - (r_t / r_s)^2

    A row takes the fewest even steps of at most `stride`; it costs as many evaluations as the
    row that takes most. Waits for the device once.

    Args:
        predict: of a state and its level.
        model: whose schedule it is.
        x_0: clean states.
        level: where to, a time a row.
        stride: the longest step in t.
        eta: share of new noise in a step, in [0, 1].
        rng: a generator a row, for z, if eta is not 0.
        eps: noise to begin with at t = .02; None to begin with x_0 itself at .001.
    """
    t = level.t.cpu()
    low = t.clamp(max=LOWEST if eps is None else NOISY)
    counts = ((t - low) / stride).ceil().clamp(min=1)
    most = int(counts.max())
    at = model.level(low, x_0)
    x = at.alpha * x_0 if eps is None else at.perturb(x_0, eps)
    for k in range(1, most + 1):
        share = (k - most + counts).clamp(min=0) / counts  # rows of fewer steps wait at first
        above = model.level(low + share * (t - low), x_0)
        seen = predict(x, at)
        eps = seen.eps
        if eta:
            v = (1 - (at.ratio / above.ratio).square()).clamp(min=0)
            z = torch.zeros_like(x)
            going = (share > 0).nonzero().flatten().tolist()  # who waits draws nothing
            drawn = normal([rng[i] for i in going], x.shape[1:], dtype=x.dtype)
            z[going] = drawn.to(x.device)
            eps = (1 - eta**2 * v).sqrt() * eps + eta * v.sqrt() * z
        x = above.perturb(seen.x_0, eps)
        at = above
    return x


def check_stride(stride: float) -> None:
    """Refuse a step that is none.

    Raises:
        ValueError: it is not in (0, 1].
    """
    if not (0 < stride <= 1 and math.isfinite(stride)):
        raise ValueError(f"stride is {stride}, expected a step in t in (0, 1].")
