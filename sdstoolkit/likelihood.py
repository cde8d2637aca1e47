"""The density of a model's samples, along the probability flow.

A flow dy/ds = f(y, s) changes log p(y) by minus its divergence, so from the data to the noise

    log p(y_0) = log p(y_T) + int tr(df/dy) ds,   log p(x_0) = log p(y_0) + d log(alpha / scale)

with y = x / scale (Song et al., 2021, https://arxiv.org/abs/2011.13456). The trace is exact from d
vector-Jacobian products, or the mean of v^T (df/dy) v over Rademacher probes v, one set for the
whole way (Hutchinson; Grathwohl et al., 2019, https://arxiv.org/abs/1810.01367); the probes'
scatter is the standard error. For an isotropic Gaussian one probe is exact.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sdstoolkit._typing import Image, Rows, State
from sdstoolkit.condition import Condition
from sdstoolkit.grids import ClippedLogSNR, Grid
from sdstoolkit.integrate import RK4, Tableau, step
from sdstoolkit.rng import generators, seeds_of, uniform
from sdstoolkit.score import ScoreModel
from sdstoolkit.solvers import Field, LogRatio
from sdstoolkit.solvers.coordinates import choose, slope

__all__ = ["Likelihood", "dequantize", "log_likelihood"]


class Likelihood(NamedTuple):
    """What `log_likelihood` found, a row a number.

    Attributes:
        log_prob: log p(x_0) in nats, a density in the model's space, [n].
        standard_error: of log_prob, from the scatter of the probes; zero for the exact trace, NaN
            for one probe, [n].
        x_T: where the flow ended, [n, *shape].
        evaluations: network evaluations a row.
    """

    log_prob: Rows
    standard_error: Rows
    x_T: State
    evaluations: int

    def bits_per_dim(self, *, offset: float = 7.0) -> Rows:
        """Bits a dimension of 8-bit data, -log_prob / (d log 2) + offset.

        A density becomes the probability of a bin by its width: data of 256 levels in [-1, 1], as
        pixel models have it, are 2^-7 apart, hence 7; in [0, 1] it is 8. Add uniform noise of one
        bin to 8-bit data first (Theis et al., 2016, https://arxiv.org/abs/1511.01844).

        Args:
            offset: minus the base-2 logarithm of a bin's width in the model's space.
        """
        d = self.x_T[0].numel()
        return -self.log_prob / (d * math.log(2)) + offset


def dequantize(image: Image, *, seed: int | Sequence[int] = 0) -> Image:
    """8-bit images as points of their bins, (k + u) / 256 with k = 255 image and u ~ U[0, 1).

    The mean over u of -log p bounds the bits of the integers themselves from above. In [0, 1] a
    bin is 1 / 256 wide, so that bits have the offset 8 there, and 7 for x_0 = 2 image - 1.

    Theis, van den Oord and Bethge, 2016, https://arxiv.org/abs/1511.01844.

    Args:
        image: what was read from 8-bit files, k / 255, [n, c, h, w].
        seed: of u, the first row's, or one a row.

    Raises:
        ValueError: values that are no k / 255.
    """
    k = (255 * image.double()).round()
    if (k - 255 * image.double()).abs().max() > 1e-3 or k.min() < 0 or k.max() > 255:
        raise ValueError("The image has values that are no k / 255, as 8-bit files have them.")
    rng = generators(seeds_of(seed, len(image)), "dequantize")
    u = uniform(rng, image.shape[1:], device=image.device)
    return (k + u) / 256


def log_likelihood(
    model: ScoreModel,
    x_0: Tensor,
    condition: Condition | None = None,
    *,
    steps: int = 50,
    tableau: Tableau = RK4,
    grid: Grid | None = None,
    probes: int | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    start: float = 1.0,
    stop: float = 0.0,
    dtype: torch.dtype = torch.float64,
    seed: int | Sequence[int] = 0,
    tell: Callable[[int], object] = lambda rows: None,
) -> Likelihood:
    """log p(x_0) of the flow from `stop` to `start`.

    The density is that of x_t / alpha at `stop`: of the data itself where the schedule begins
    without noise, and of the data with its first noise for a table of betas. With few steps it is
    over-stated; 50 steps are right to 1e-4 nats on smooth mixtures in two dimensions.

    Network evaluations: 4 a step with RK4, each followed by d or `probes` backward passes.

    Args:
        model: the score model, guided or not.
        x_0: clean states, [n, *shape].
        condition: of 1 or n rows; None for an unconditional model.
        steps: of the method, at least 1.
        tableau: the method, from `sdstoolkit.integrate`.
        grid: where the steps lie, even in the log-SNR by default.
        probes: how many for the trace, at least 1; None for the exact one, for small d.
        prior: log p_T(x_T), [n, *shape] -> [n], where it is known; N(0, sigma_T^2 I) by default.
        start: the noisy end, in (stop, 1].
        stop: the clean end, in [0, start).
        dtype: of the state, float64 or float32.
        seed: of the probes, the first row's, or one a row.
        tell: called with the number of rows after every step: a progress bar.

    Raises:
        ValueError: one of these is out of range, or a time at which the network's output means
            nothing.
    """
    if not 0 <= stop < start <= 1:
        raise ValueError(f"start = {start} and stop = {stop} are not 0 <= stop < start <= 1.")
    if probes is not None and probes < 1:
        raise ValueError(f"probes = {probes} is not at least 1; None is the exact trace.")
    n, d, x_0 = len(x_0), x_0[0].numel(), x_0.detach().to(dtype)
    field = Field(model, None if condition is None else condition.expand(n), grad=True)
    nodes = field.nodes((grid or ClippedLogSNR())(model.schedule, steps, stop, start))
    coordinate = choose(None, LogRatio(), nodes)
    f = slope(coordinate, field)
    trace = _exact if probes is None else _Probed(x_0, probes, seed)

    def widened(state: Tensor, place: float) -> Tensor:
        """[dy/ds, the traces], [n, d + probes], from a state laid out alike."""
        y = state[:, :d].reshape(x_0.shape)
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            move = f(y, place)
            traces = trace(move, y)
        return torch.cat([move.detach().flatten(1), traces], 1)

    places, scales = zip(*map(coordinate.at, nodes), strict=True)
    y = (nodes[0].alpha / scales[0]) * x_0
    state = torch.cat([y.flatten(1), y.new_zeros(n, probes or 1)], 1)
    for s, s_next in pairwise(places):
        state = step(tableau, widened, state, s, s_next - s)
        tell(n)
    x_T = scales[-1] * state[:, :d].reshape(x_0.shape)
    at_T = _normal(x_T, nodes[-1].sigma) if prior is None else prior(x_T)
    # From p(x_T) to p(y_T), and from p(y_0) to p(x_0).
    log_scale = d * math.log(scales[-1] * nodes[0].alpha / scales[0])
    change = state[:, d:]
    error = change.new_zeros(n)
    if probes is not None:
        error = (
            change.std(1) / math.sqrt(probes) if probes > 1 else change.new_full((n,), math.nan)
        )
    return Likelihood(at_T + change.mean(1) + log_scale, error, x_T, field.calls)


def _exact(move: Tensor, y: Tensor) -> Tensor:
    """tr(d move / d y), [n, 1], by a backward pass an element of y."""
    flat = move.flatten(1)
    rows = range(flat.shape[1])
    parts = [
        torch.autograd.grad(flat[:, i].sum(), y, retain_graph=i < len(rows) - 1)[0].flatten(1)[
            :, i
        ]
        for i in rows
    ]
    return torch.stack(parts, 1).sum(1, keepdim=True)


class _Probed:
    """v^T (d move / d y) v, [n, probes], for Rademacher probes that stay the same."""

    def __init__(self, like: Tensor, probes: int, seed: int | Sequence[int]) -> None:
        rng = generators(seeds_of(seed, len(like)), "trace")
        u = uniform(rng, (probes, *like.shape[1:]), device=like.device)
        self.v = ((u < 0.5).to(like.dtype) * 2 - 1).transpose(0, 1)

    def __call__(self, move: Tensor, y: Tensor) -> Tensor:
        last = len(self.v) - 1
        parts = [
            (v * torch.autograd.grad((v * move).sum(), y, retain_graph=k < last)[0])
            for k, v in enumerate(self.v)
        ]
        return torch.stack([part.flatten(1).sum(1) for part in parts], 1)


def _normal(x: Tensor, sigma: float) -> Tensor:
    """log N(x; 0, sigma^2 I), [n]."""
    squares = (x / sigma).square().flatten(1)
    return -(squares + math.log(2 * math.pi * sigma**2)).sum(1) / 2
