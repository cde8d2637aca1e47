"""A small network that learns a score in a few dimensions, and the function that trains one.

    h <- silu(W h + T phi(t)),   layer by layer

between the scales of :mod:`sdstoolkit.toy.score_network`.
"""

from pathlib import Path
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn

from sdstoolkit.noise import Schedule
from sdstoolkit.prediction import Parameterization
from sdstoolkit.toy.objectives import Continuous, Objective
from sdstoolkit.toy.score_network import ScoreNetwork
from sdstoolkit.toy.training import History, Plan, Share, Track, fit

__all__ = ["MLPScore", "train"]

M = TypeVar("M", bound=nn.Module)


class MLPScore(ScoreNetwork):
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
        sizes = {"dim": dim, "width": width, "depth": depth, "features": features}
        super().__init__((dim,), schedule, parameterization, sizes, sigma_data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = [dim] + [width] * depth
            self.layers = nn.ModuleList(
                nn.Linear(i, o) for i, o in zip(widths, widths[1:], strict=False)
            )
            self.times = nn.ModuleList(
                nn.Linear(2 * features, width, bias=False) for _ in range(depth)
            )
            self.last = nn.Linear(width, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def body(self, h: Tensor, phi: Tensor) -> Tensor:
        """The layers, as `ScoreNetwork.body`."""
        for layer, time in zip(self.layers, self.times, strict=True):
            h = nn.functional.silu(layer(h) + time(phi))
        return self.last(h)


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
    muon: bool = False,
    seed: int = 0,
    checkpoint: Path | None = None,
    track: Track | None = None,
) -> tuple[M, History]:
    """Train a model in place by any objective; it ends with the averaged weights.

        theta <- AdamW or Muon(grad 1/n sum_i L(model, x_i)),   x_i drawn from the rows of data

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
        muon: move matrices and convolutions by Muon, see :mod:`sdstoolkit.toy.optimizer`.
        seed: names the run.
        checkpoint: a safetensors file to write and to resume from.
        track: told the loss and the learning rate as they come.

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
        muon=muon,
        seed=seed,
        report_every=max(1, steps // 100),
    )
    share, name = Share(track=track), type(model).__name__
    history = fit(model, loss, plan, checkpoint=checkpoint, name=name, share=share)
    return model, history
