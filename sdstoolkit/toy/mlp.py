"""A small network that learns a score in a few dimensions, and the function that trains one.

    out = F(x_t / sqrt(alpha^2 d^2 + sigma^2), t) sqrt(a^2 d^2 + b^2),   d = sigma_data

Input and output have unit variance at every level for data of the standard deviation d, whatever
the schedule and the parameterisation out = a x_0 + b eps are (Karras, Aittala, Aila and Laine,
2022, https://arxiv.org/abs/2206.00364, choose their coefficients by this). Time enters each layer
as Fourier features sin(pi k t), cos(pi k t), k = 1 ... K.
"""

import math
from pathlib import Path
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn

from sdstoolkit.condition import Condition
from sdstoolkit.noise import NoiseLevel, Schedule
from sdstoolkit.prediction import Karras, Parameterization
from sdstoolkit.score import ScoreModel
from sdstoolkit.toy.objectives import Continuous, Objective
from sdstoolkit.toy.training import History, Plan, fit

__all__ = ["MLPScore", "train"]

M = TypeVar("M", bound=nn.Module)


class MLPScore(ScoreModel):
    """A time-conditioned multilayer perceptron as a score model.

        h <- silu(W h + T phi(t)),   out = F sqrt(a^2 d^2 + b^2)

    Args:
        dim: D, the dimension of the data, at least 1.
        schedule: the noise schedule.
        parameterization: what the network is to return.
        width: of the hidden layers, at least 1.
        depth: how many, at least 1.
        features: K, frequencies of the time features, at least 1.
        sigma_data: the data's standard deviation d, above 0; Karras's own, else 1.
        seed: names the first weights.

    Raises:
        ValueError: a size below 1, or sigma_data not above 0.
    """

    rates: Tensor

    def __init__(
        self,
        dim: int,
        schedule: Schedule,
        parameterization: Parameterization,
        *,
        width: int = 128,
        depth: int = 3,
        features: int = 8,
        sigma_data: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(dim, width, depth, features) < 1:
            raise ValueError(
                f"dim = {dim}, width = {width}, depth = {depth} and features = {features} are not "
                "all at least 1."
            )
        if sigma_data is None:
            sigma_data = 1.0
            if isinstance(parameterization, Karras):
                sigma_data = parameterization.sigma_data
        if not 0 < sigma_data < math.inf:
            raise ValueError(f"sigma_data = {sigma_data} is not a finite number above 0.")
        self.schedule, self.parameterization, self.shape = schedule, parameterization, (dim,)
        self.sigma_data = sigma_data
        self.register_buffer("rates", math.pi * torch.arange(1, features + 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = [dim] + [width] * depth
            self.layers = nn.ModuleList(
                nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False)
            )
            self.times = nn.ModuleList(
                nn.Linear(2 * features, width, bias=False) for _ in range(depth)
            )
            self.last = nn.Linear(width, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The network's output, as `ScoreModel.output`; ValueError if there is a condition."""
        if condition:
            raise ValueError(f"MLPScore takes no condition; {condition} was given.")
        d, dtype = self.sigma_data, x_t.dtype
        angle = level.t[:, None] * self.rates.double()
        phi = torch.cat([angle.sin(), angle.cos()], 1).to(dtype)
        h = x_t / torch.hypot(d * level.alpha, level.sigma).to(dtype)
        for layer, time in zip(self.layers, self.times, strict=True):
            h = nn.functional.silu(layer(h) + time(phi))
        a, b = self.parameterization.coefficients(level)
        return self.last(h) * torch.hypot(a * d, b).to(dtype)


def train(
    model: M,
    data: Tensor,
    objective: Objective | None = None,
    *,
    steps: int = 3000,
    batch: int = 256,
    lr: float = 3e-3,
    warmup: int = 100,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    ema: float = 0.999,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> tuple[M, History]:
    """Train a model in place by any objective; it ends with the averaged weights.

        theta <- AdamW(grad 1/n sum_i L(model, x_i)),   x_i drawn from the rows of data

    A seed names the run: with a checkpoint, one that was stopped ends with the same bits.

    Args:
        model: what is trained; a `ScoreModel`, or for the objectives without noise levels a
            module x -> s(x).
        data: x_0, [N, *shape].
        objective: `Continuous()` by default.
        steps: optimiser steps, at least 1.
        batch: rows a step, at least 1.
        lr: peak learning rate, reached after `warmup` steps, then a cosine to 0.
        warmup: steps of the linear rise.
        weight_decay: AdamW's, on matrices only.
        clip: bound of the gradient's norm.
        ema: the final decay of the weights' average, in [0, 1).
        seed: names the run.
        checkpoint: a safetensors file to write and to resume from.

    Returns:
        The model, and the history of its loss.

    Raises:
        ValueError: no data, numbers out of range, a loss that is not finite, or a checkpoint of
            another network.
    """
    if not len(data) or not data.isfinite().all() or batch < 1:
        raise ValueError(
            f"data {list(data.shape)} and batch = {batch} are not finite rows and at least 1."
        )
    chosen: Objective = Continuous() if objective is None else objective
    dtype = next(p.dtype for p in model.parameters())
    rows = data.to(dtype)

    def loss(step: int, rng: Generator) -> Tensor:
        pick = torch.randint(len(rows), (batch,), generator=rng).to(rows.device)
        return chosen(model, rows[pick], rng).mean()

    plan = Plan(
        steps=steps,
        lr=lr,
        warmup=warmup,
        weight_decay=weight_decay,
        clip=clip,
        ema=ema,
        seed=seed,
        report_every=max(1, steps // 100),
    )
    history = fit(model, loss, plan, checkpoint=checkpoint, name=type(model).__name__)
    return model, history
