r"""One training loop, for every network that this project fits.

AdamW or Muon under a linear warm-up and a cosine decay, gradients clipped to a global norm, and an
exponential moving average of the weights whose memory grows with the step,

.. math:: \bar\theta \leftarrow d_k\,\bar\theta + (1 - d_k)\,\theta, \qquad
          d_k = \min\bigl(d,\ (1 + k) / (10 + k)\bigr).

A run is a seed: the loss draws from the generator it is given and from nothing else. With a
checkpoint it resumes where it stopped and ends with the same bits as a run that never did.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Generator, Tensor, nn

from sdstoolkit._files import write_atomically
from sdstoolkit.toy.optimizer import Optimizer

Loss = Callable[[int, Generator], Tensor]
Track = Callable[[str, int, Mapping[str, float]], None]
"""Takes the name of a run, a step and figures of it."""
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass
class History:
    """What training measured: the step and loss of every report, and the seconds spent."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train.

    Args:
        steps: Optimiser steps, at least 1.
        lr: Peak learning rate.
        warmup: Steps of the linear rise to it.
        weight_decay: Decoupled, of matrices and convolutions only.
        clip: Bound of the gradient's global norm.
        ema: The average's final decay, in [0, 1); 0 keeps the last weights.
        seed: Names the run.
        report_every: Steps between the points of the history.
        save_every: Steps between checkpoints.
        muon: Whether matrices and convolutions move by Muon, see :mod:`sdstoolkit.toy.optimizer`.
    """

    steps: int
    lr: float
    warmup: int = 100
    weight_decay: float = 1e-2
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    report_every: int = 25
    save_every: int = 250
    muon: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, expected at least 1.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr is {self.lr}, expected a positive finite learning rate.")

    def rate(self, step: int) -> float:
        """The learning rate of a step, relative to the peak."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * done))


def fast_products(precision: str = "auto") -> torch.autocast:
    """A context with products in bfloat16 where the processor multiplies in it, else float32.

    On a core with matrix units a convolution is five times faster in bfloat16; on one that only
    emulates the type it would be slower, so there nothing changes. Weights stay float32.

    Args:
        precision: One of `PRECISIONS`; "auto" asks the processor.
    """
    fast = torch.ops.mkldnn._is_mkldnn_bf16_supported() if precision == "auto" else False
    return torch.autocast("cpu", torch.bfloat16, enabled=fast or precision == "bfloat16")


@dataclass
class Share:
    r"""What one of several processes does of every batch, and in how many pieces.

    All of them draw the same numbers and each works on its rows, so that the average of their
    gradients is the gradient of the whole batch: a seed names the same run on any number of them.
    A batch that is worked on in pieces, one after the other, is shared in the same way, with

    .. math:: \nabla L = \frac{1}{RN} \sum_{r<R} \sum_{k<N} \nabla L_{rk}.

    Args:
        rank: Which process this is, from 0.
        world: How many there are, R; batches must be multiples of R N.
        reduce: Averages a vector over the processes.
        accumulate: Pieces of this process's rows, N; memory falls and time grows a little.
        precision: Of products, one of `PRECISIONS`.
        track: Told the loss, the learning rate and what a run watches, as they come.

    Raises:
        ValueError: No piece, or another precision.
    """

    rank: int = 0
    world: int = 1
    reduce: Callable[[Tensor], Tensor] | None = None
    accumulate: int = 1
    precision: str = "auto"
    track: Track | None = None
    _piece: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"accumulate is {self.accumulate}, expected at least 1.")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}."
            )

    def of(self, rows: Tensor) -> Tensor:
        """The rows of a batch that are this process's, and of the piece it works on.

        Raises:
            ValueError: The batch cannot be divided evenly.
        """
        parts = self.world * self.accumulate
        if len(rows) % parts:
            raise ValueError(
                f"A batch of {len(rows)} cannot be divided evenly into {self.world} processes"
                f" times {self.accumulate} pieces, expected a product that divides it."
            )
        return rows[self.rank + self.world * self._piece :: parts]

    def pieces(self, rng: Generator) -> Iterator[int]:
        """Every piece in turn; each draws the numbers of the whole batch anew, the same ones."""
        start = rng.get_state() if self.accumulate > 1 else None
        try:
            for piece in range(self.accumulate):
                if start is not None:
                    rng.set_state(start)
                self._piece = piece
                yield piece
        finally:
            self._piece = 0

    def products(self) -> torch.autocast:
        """The context of the network's products, see :func:`fast_products`."""
        return fast_products(self.precision)

    def fit(
        self,
        network: nn.Module,
        loss: Loss,
        plan: Plan,
        *,
        checkpoint: Path | None,
        name: str,
        watch: Callable[[int], Mapping[str, float]] | None = None,
    ) -> History:
        """:func:`fit`, together with the other processes; the first one writes."""
        return fit(
            network, loss, plan, checkpoint=checkpoint, name=name, share=self, watch=watch
        )


ALONE = Share()


def fit(
    network: nn.Module,
    loss: Loss,
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    name: str = "training",
    share: Share = ALONE,
    watch: Callable[[int], Mapping[str, float]] | None = None,
) -> History:
    """Train a network in place; it ends with the averaged weights.

    Args:
        network: What is fitted; only parameters that require a gradient move.
        loss: ``loss(step, rng)`` returns the scalar to descend, of the rows that are `share`'s.
        plan: How.
        checkpoint: A safetensors file to write and to resume from; None keeps nothing.
        name: The progress bar's label, and of what is tracked.
        share: This process's part of the work; the first process writes and draws the bar.
        watch: Further figures for the progress bar, asked for at every checkpoint.

    Raises:
        ValueError: If the loss is not finite, or a checkpoint belongs to other parameters.
    """
    from tqdm import tqdm

    optimizer = Optimizer(network, lr=plan.lr, weight_decay=plan.weight_decay, muon=plan.muon)
    params = optimizer.params
    average = [p.detach().clone() for p in params.values()]
    rng = torch.Generator().manual_seed(plan.seed)
    history, first = History(), 0
    if checkpoint is not None and checkpoint.exists():
        history, first = _restore(checkpoint, average, optimizer, rng)

    started, before = time.monotonic(), history.seconds
    recent: list[Tensor] = []
    extra: dict[str, float] = {}
    writes, track = share.rank == 0, share.track or (lambda name, step, figures: None)
    network.train()
    with tqdm(
        range(first, plan.steps),
        name,
        plan.steps,
        initial=first,
        mininterval=2,
        disable=not writes,
    ) as bar:
        for step in bar:
            values = []
            for _ in share.pieces(rng):
                value = loss(step, rng) / share.accumulate
                value.backward()
                values.append(value.detach())
            value = torch.stack(values).sum()
            if share.reduce is not None:
                value = _reduce(share.reduce, list(params.values()), value)
            nn.utils.clip_grad_norm_(params.values(), plan.clip, foreach=True)
            rate = plan.lr * plan.rate(step)
            optimizer.step(rate)
            decay = min(plan.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [p.detach() for p in params.values()], 1 - decay)
            recent.append(value)
            last = step + 1 == plan.steps
            if last or (step + 1) % plan.report_every == 0:
                mean = float(torch.stack(recent).mean())
                recent.clear()
                if not math.isfinite(mean):
                    raise ValueError(
                        f"{name} has a loss of {mean} at step {step}, expected a finite one: "
                        "lower the learning rate."
                    )
                history.steps.append(step + 1)
                history.losses.append(mean)
                bar.set_postfix(loss=f"{mean:.4f}", **{k: f"{v:.4f}" for k, v in extra.items()})
                track(name, step + 1, {"loss": mean, "learning rate": rate})
            if last or (step + 1) % plan.save_every == 0:
                history.seconds = before + time.monotonic() - started
                if watch is not None:
                    extra = dict(watch(step + 1))
                    track(name, step + 1, extra)
                if checkpoint is not None and writes:
                    _save(checkpoint, average, optimizer, rng, history, step + 1)
    with torch.no_grad():
        for p, mean_p in zip(params.values(), average, strict=True):
            p.copy_(mean_p)
    network.eval()
    return history


def _reduce(
    mean: Callable[[Tensor], Tensor], params: list[nn.Parameter], value: Tensor
) -> Tensor:
    """Average the gradients and the loss over the processes, as one vector; the loss."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    flat = mean(torch.cat([*(grad.flatten() for grad in grads), value.reshape(1)]))
    *parts, loss = flat.split([*(grad.numel() for grad in grads), 1])
    for p, part in zip(params, parts, strict=True):
        p.grad = part.view_as(p)
    return loss[0]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, complete or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(
        path, save({k: v.detach().contiguous() for k, v in tensors.items()}, metadata)
    )


def _save(
    path: Path,
    average: list[Tensor],
    optimizer: Optimizer,
    rng: Generator,
    history: History,
    step: int,
) -> None:
    tensors = {"generator": rng.get_state(), **optimizer.state()}
    for (key, p), mean in zip(optimizer.params.items(), average, strict=True):
        tensors[f"parameter.{key}"] = p
        tensors[f"average.{key}"] = mean
    record = {"step": step, **vars(history)}
    save_tensors(path, tensors, {"record": json.dumps(record)})


def _restore(
    path: Path,
    average: list[Tensor],
    optimizer: Optimizer,
    rng: Generator,
) -> tuple[History, int]:
    with safe_open(path, "pt") as file:
        names = {k.removeprefix("parameter.") for k in file.keys() if k.startswith("parameter.")}
        params = optimizer.params
        if names != set(params):
            raise ValueError(
                f"{path} holds {len(names)} parameters that are not this network's {len(params)}: "
                "give another folder or remove it."
            )
        record = json.loads(file.metadata()["record"])
        with torch.no_grad():
            for (key, p), mean in zip(params.items(), average, strict=True):
                p.copy_(file.get_tensor(f"parameter.{key}"))
                mean.copy_(file.get_tensor(f"average.{key}"))
        optimizer.restore({key: file.get_tensor(key) for key in file.keys()})
        rng.set_state(file.get_tensor("generator"))
    step = record.pop("step")
    return History(**record), step
