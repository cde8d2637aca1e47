"""Gradient descent on a canvas.

    theta  <-  theta - lr Adam((dx_0 / dtheta)^T G),   x_0 = encode(augment(image(theta)))

Rows share nothing: each has its own noise, its own parameters and its own moments, so that a seed
gives the same image alone and in a batch. A row that is no longer finite keeps its last good state
while the others go on. Nothing here waits for the device at every step; what a step has to say is
read from the device when somebody looks.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Generator, Tensor, nn

from sdstoolkit._adam import Adam
from sdstoolkit._typing import Rows
from sdstoolkit.canvas.base import Augment, Canvas
from sdstoolkit.distill.base import Distiller
from sdstoolkit.rng import generators, seeds_of
from sdstoolkit.views import Look, Loss, View, as_it_is

__all__ = ["CosineDecay", "Loss", "Optimization", "Step", "optimize"]

LearningRate = float | Callable[[float], float]
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class CosineDecay:
    """A learning rate that rises along a line, then falls along a cosine.

        rate = lr (final + (1 - final) (1 + cos(pi (p - warmup) / (1 - warmup))) / 2),  p >= warmup

    A stochastic gradient keeps a canvas at a distance of about sqrt(lr) from its fixed point; a
    rate that falls takes this noise out.

    Loshchilov and Hutter, 2016, https://arxiv.org/abs/1608.03983.

    Args:
        lr: the highest rate, above 0.
        warmup: part of the run that the rate rises for, in [0, 1).
        final: the last rate, as a part of `lr` in [0, 1].

    Raises:
        ValueError: one of them is out of its range.
    """

    lr: float
    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr}, expected a finite number above 0.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}, expected a part of the run in [0, 1).")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final is {self.final}, expected a part of lr in [0, 1].")

    def __call__(self, progress: float) -> float:
        """The rate at a progress in [0, 1]."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        fallen = 0.5 - 0.5 * math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))
        return self.lr * (1 - (1 - self.final) * fallen)


@dataclass(frozen=True, eq=False)
class Step:
    """What one step of `optimize` did.

    Attributes:
        index: number of the step, from 0.
        steps: how many there are.
        values: the loss of each row before the update, [n], on the canvas's device; of all of
            them, n times, if the loss is a plain function.
        t: the time that each row drew, float64 [n]; None if the loss does not tell.
        alive: which rows are still optimised, bool [n], on the canvas's device.
        frozen: seeds that have stopped, and at which step; as known at the last look, one every
            `check_every` steps and one at the end.
        canvas: the canvas, after the update.
    """

    index: int
    steps: int
    values: Rows
    t: Rows | None
    alive: Tensor
    frozen: Mapping[int, int]
    canvas: Canvas

    @property
    def loss(self) -> float:
        """The mean loss of the rows that are alive, NaN without any; waits for the device."""
        return float(torch.where(self.alive, self.values, 0).sum() / self.alive.sum())


def optimize(
    canvas: Canvas,
    loss: Loss | Sequence[View],
    *,
    steps: int = 300,
    lr: LearningRate | None = None,
    seed: int | Sequence[int] | None = None,
    augment: Augment | None = None,
    optimizer: MakeOptimizer | None = None,
    check_every: int = 10,
) -> "Optimization":
    """Optimise a canvas in place, a step at a time; what is not consumed is not done.

        theta  <-  theta - lr Adam(dL / dtheta)

    A step costs what the loss and the canvas cost, and about a millisecond. If no row is left
    alive the iterator ends before its time.

    Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980.

    Args:
        canvas: what is optimised.
        loss: a `Distiller`, or a function of x_0, progress and rng; or several `View`s, each with
            a loss of its own, whose gradients add up.
        steps: how many, at least 1.
        lr: learning rate above 0, or a function of the progress such as `CosineDecay`; None is the
            canvas's, or what `optimizer` sets.
        seed: of the noise, an int for seed, ..., seed + n - 1, or one a row; None is the canvas's.
        augment: what happens to an image before it is encoded, [1, c, h, w] -> [1, c, h, w]. It is
            called for each row, with torch's global CPU generator at a seed of that row and step,
            which is put back afterwards.
        optimizer: makes one from a list of parameters, e.g. ``partial(torch.optim.SGD, lr=0.1)``;
            None is Adam with the loss's betas, (0.9, 0.99) for most. Rows stay apart if it treats
            elements one by one.
        check_every: how often to look for rows that have stopped, at least 1.

    Returns:
        An iterator of a `Step` for each step, which can also be put away and taken up again.

    Raises:
        ValueError: a number out of its range, not one seed a row, or a loss that does not depend
            on the canvas.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1.")
    if check_every < 1:
        raise ValueError(f"check_every is {check_every}, expected at least 1 step.")
    seeds = canvas.seeds if seed is None else seeds_of(seed, canvas.n)
    views = [View(as_it_is, loss)] if isinstance(loss, Loss) else list(loss)
    if not views:
        raise ValueError("There is no view to optimise for; give a loss, or one View or more.")
    parameters = [p for p in canvas.parameters() if p.requires_grad]
    if not parameters or any(p.ndim == 0 or len(p) != canvas.n for p in parameters):
        shapes = [list(p.shape) for p in parameters]
        raise ValueError(f"The parameters {shapes} do not all have the canvas's {canvas.n} rows.")
    if optimizer is None:
        lr = canvas.lr if lr is None else lr
        betas = getattr(views[0].loss, "betas", Distiller.betas)
        made: Adam | torch.optim.Optimizer = Adam(parameters, _rate(lr, 0.0), betas, eps=1e-15)
    else:
        made = optimizer(parameters)
    if lr is not None:
        _rate(lr, 0.0)
    return Optimization(canvas, views, made, lr, steps, seeds, augment, check_every)


class Optimization(Iterator[Step]):
    """An optimisation that is made a step at a time, and can be put away and taken up again.

    `optimize` makes it. What goes on from a state ends with the same bits as what was never
    interrupted, in the same batch and with the same number of threads. A loss that keeps something
    from step to step has `state` and `restore` of its own, and so has a canvas that draws; they
    are called here.
    """

    def __init__(
        self,
        canvas: Canvas,
        views: Sequence[View],
        optimizer: Adam | torch.optim.Optimizer,
        lr: LearningRate | None,
        steps: int,
        seeds: Sequence[int],
        augment: Augment | None,
        check_every: int,
    ) -> None:
        self._canvas, self._views, self._optimizer, self._lr = canvas, views, optimizer, lr
        self._steps, self._seeds, self._augment = steps, seeds, augment
        self._check_every = check_every
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._rng = generators(seeds, "noise")
        self._rows = _Finite(self._parameters)
        self._frozen: dict[int, int] = {}
        self._index = 0

    def __next__(self) -> Step:
        canvas, views, rows, index = self._canvas, self._views, self._rows, self._index
        if index == self._steps or len(self._frozen) == canvas.n:
            raise StopIteration
        progress = index / self._steps
        if self._lr is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = _rate(self._lr, progress)
        augment = self._augment
        added = None if augment is None else _for_each_row(augment, self._seeds, index)
        shown = [canvas.x_0(_through(view.look, added)) for view in views]
        asked = [
            _ask(view.loss, x_0, progress, self._rng)
            for view, x_0 in zip(views, shown, strict=True)
        ]
        for p in self._parameters:
            p.grad = None
        _go_back([(end, slope) for end, slope in asked if end.requires_grad])
        rows.remember()
        self._optimizer.step()
        rows.restore()
        for view, x_0 in zip(views, shown, strict=True):
            if isinstance(view.loss, Distiller):
                view.loss.fit(x_0.detach(), progress=progress, rng=self._rng)
        self._index = index + 1
        if self._index % self._check_every == 0 or self._index == self._steps:
            self._frozen = rows.stopped(self._seeds)
        values, t = _said(views, asked, canvas.n)
        return Step(index, self._steps, values, t, rows.alive, self._frozen, canvas)

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, by name; between two steps."""
        state = {
            "index": torch.tensor(self._index),
            "rng": torch.stack([generator.get_state() for generator in self._rng]),
            "alive": self._rows.alive,
            "steps": self._rows.steps,
        }
        state |= {f"parameter.{k}": p.detach() for k, p in enumerate(self._parameters)}
        for k, entries in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{k}.{n}": v for n, v in entries.items() if v is not None}
        state |= {f"canvas.{name}": v for name, v in self._canvas.state().items()}
        for k, view in enumerate(self._views):
            if hasattr(view.loss, "state"):
                state |= {f"loss.{k}.{name}": v for name, v in view.loss.state().items()}
        return state

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave, of an optimisation that was made alike.

        Args:
            state: Tensors by name.

        Raises:
            ValueError: They are another optimisation's.
        """
        mine = {f"parameter.{k}": p for k, p in enumerate(self._parameters)}
        found = {name: state[name].shape for name in state if name.startswith("parameter.")}
        if found != {name: p.shape for name, p in mine.items()}:
            raise ValueError(
                f"The state has parameters {found}, expected those of this canvas; it is of "
                "another one."
            )
        for name, p in mine.items():
            p.copy_(state[name])
        for generator, saved in zip(self._rng, state["rng"], strict=True):
            generator.set_state(saved.clone())
        entries: dict[int, dict[str, Tensor]] = {}
        for name in (name for name in state if name.startswith("optimizer.")):
            _, k, key = name.split(".", 2)
            entries.setdefault(int(k), {})[key] = state[name].clone()
        saved_state = self._optimizer.state_dict() | {"state": entries}
        self._optimizer.load_state_dict(saved_state)
        self._index = int(state["index"])
        self._rows.alive = state["alive"].to(self._rows.alive)
        self._rows.steps = state["steps"].to(self._rows.steps)
        self._frozen = self._rows.stopped(self._seeds)
        self._canvas.restore(_under("canvas.", state))
        for at, view in enumerate(self._views):
            if hasattr(view.loss, "restore"):
                view.loss.restore(_under(f"loss.{at}.", state))


def _under(begins: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries whose names begin so, without it."""
    return {name[len(begins) :]: v for name, v in state.items() if name.startswith(begins)}


def _through(look: Look, added: Augment | None) -> Augment | None:
    """A view, then an augmentation; None if there is neither."""
    if look is as_it_is:
        return added
    return look if added is None else lambda image: added(look(image))


def _ask(
    loss: Loss, x_0: Tensor, progress: float, rng: Sequence[Generator]
) -> tuple[Tensor, Tensor | None]:
    """Where the way back begins: at x_0 with a method's gradient, or at a function's value."""
    if isinstance(loss, Distiller) and type(loss).forward is Distiller.forward:
        return x_0, loss.gradient(x_0, progress=progress, rng=rng)
    return loss(x_0, progress=progress, rng=rng), None


def _go_back(ends: Sequence[tuple[Tensor, Tensor | None]]) -> None:
    """Add the gradients by the parameters to theirs; one that is x_0 itself has it already."""
    if not ends:
        raise ValueError(
            "The loss does not depend on the canvas; look for a detach or a no_grad between."
        )
    through, slopes = [], []
    for end, slope in ends:
        hooks = end._backward_hooks or end._post_accumulate_grad_hooks
        if slope is None or not end.is_leaf or hooks:
            through.append(end)
            slopes.append(slope)
        else:
            end.grad = slope if end.grad is None else end.grad + slope
    if through:
        torch.autograd.backward(through, slopes)


def _said(
    views: Sequence[View], asked: Sequence[tuple[Tensor, Tensor | None]], n: int
) -> tuple[Tensor, Tensor | None]:
    """The loss of each row, a mean over views, and its time if there is one view that tells.

    If one of them does not tell, it is the sum of all, n times.
    """
    last = [getattr(view.loss, "last", None) for view in views]
    told = [each for each in last if each is not None]
    if len(told) < len(views):
        parts = [
            end.detach() if slope is None or each is None else each.values.mean()
            for (end, slope), each in zip(asked, last, strict=True)
        ]
        return sum(parts[1:], start=parts[0]).expand(n), None
    if len(told) == 1:
        return told[0].values, told[0].t
    return torch.stack([each.values for each in told]).mean(0), None


class _Finite:
    """Which rows are finite, and the last state in which they were; only `stopped` waits."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.good = [torch.empty_like(p, requires_grad=False) for p in parameters]
        n, device = len(parameters[0]), parameters[0].device
        self.alive = torch.ones(n, dtype=torch.bool, device=device)
        self.steps = torch.zeros(n, dtype=torch.long, device=device)  # made while alive

    @torch.no_grad()
    def remember(self) -> None:
        for good, p in zip(self.good, self.parameters, strict=True):
            good.copy_(p)

    @torch.no_grad()
    def restore(self) -> None:
        alive = self.alive
        for p in self.parameters:
            # no infinity and no NaN goes away in a sum
            alive = alive & _finite(p if p.grad is None else p + p.grad)
        for good, p in zip(self.good, self.parameters, strict=True):
            torch.where(alive.view(-1, *[1] * (p.ndim - 1)), p, good, out=p)
        self.steps = self.steps + alive
        self.alive = alive

    def stopped(self, seeds: Sequence[int]) -> dict[int, int]:
        told = zip(seeds, self.steps.tolist(), self.alive.tolist(), strict=True)
        return {seed: steps for seed, steps, alive in told if not alive}


def _finite(x: Tensor) -> Tensor:
    """Which rows are finite: 0 times what is not is NaN, and no sum of zeros is."""
    return (x * 0).reshape(len(x), -1).sum(1) == 0


def _rate(lr: LearningRate, progress: float) -> float:
    """The learning rate now; a function of the progress may pass through zero, a number not."""
    rate = float(lr(progress) if callable(lr) else lr)
    if not 0 <= rate < math.inf or (rate == 0 and not callable(lr)):
        raise ValueError(f"lr is {rate}, expected a finite number above 0.")
    return rate


def _for_each_row(augment: Augment, seeds: Sequence[int], index: int) -> Augment:
    """The augmentation of a batch, in which a row's randomness is its seed's and its step's."""

    def augmented(image: Tensor) -> Tensor:
        state, rows = torch.get_rng_state(), []
        try:
            for seed, row in zip(seeds, image.split(1), strict=True):
                digest = sha256(f"augment/{seed}/{index}".encode()).digest()
                # The CPU's generator alone; torch.manual_seed would disturb every device's.
                torch.default_generator.manual_seed(int.from_bytes(digest[:4], "big"))
                rows.append(augment(row))
        finally:
            torch.set_rng_state(state)
        return torch.cat(rows)

    return augmented
