"""What every distillation loss shares: the draw of a noise level, the weight, the gradient.

A row draws its own time, then its own noise, and

    x_t = alpha x_0 + sigma eps,   dL/dx_0 := w(t) R(x_0, x_t, t, eps),   L := mean R^2.

The gradient is put there by hand; R is a difference of predictions, not a derivative of L. It is
summed over elements and rows: what a row receives never depends on the rows beside it. The value
is the honest mean of the squared residual; it is there to be read.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn

from sdstoolkit._typing import Rows, State, Times
from sdstoolkit.condition import Condition
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit, Seen
from sdstoolkit.distill.weights import SigmaSquared, Weight
from sdstoolkit.grids import UniformLaw
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prediction import Prediction
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal, uniform
from sdstoolkit.score import ScoreModel, combine

__all__ = ["Distiller", "Last", "Prompt", "TimeDraw", "condition_of", "null_of"]

Prompt = str | Sequence[str] | Condition | None
TimeDraw = Callable[[Tensor, float], Tensor]

_SIGMA_SQUARED = SigmaSquared()
_UNIFORM = UniformLaw()


class Last(NamedTuple):
    """What the last call of a loss saw, a row each, on x_0's device and without a graph.

    Attributes:
        values: mean of the squared residual, [n].
        t: times, float64 [n].
        gradient: what it gave x_0, [n, *shape].
    """

    values: Rows
    t: Times
    gradient: State


class Distiller(nn.Module, ABC):
    """A loss of x_0 whose gradient is a method's own; a new one writes `residual` only.

        dL/dx_0[i] = w(t[i]) R[i],   L = mean R^2

    A method that needs more may also write `noise` (where eps comes from), `besides` (terms that
    carry no weight) or `fit` (a network of its own, trained between the steps of `optimize`).

    Attributes:
        card: what the method costs, where it comes from and what it is bad at.
        betas: of Adam, that suit the method.
        couples: whether rows are particles of one law, so that a row depends on the others.
        progress, rng: of the present call, for a `residual` that wants them.

    Args:
        model: a `Prior`, or a bare `ScoreModel`.
        prompt: what is wanted, a text or one a row for a prior that reads prompts, or a
            `Condition`; None for the unconditional model.
        negative: what to guide away from, likewise; None for the null prompt.
        scale: guidance, 1 the conditional model and 0 the unconditional one. Text-to-image models
            want 30 to 100 here.
        weight: w, a callable of the noise level.
        t_law: where times come from, a callable of u ~ U[0, 1), [n], and of the progress.
        limits: what happens to w R before it is the gradient, in order; see `limits`.

    Raises:
        ValueError: `scale` is not finite; it asks for guidance with nothing to guide towards, or
            away from; `negative` comes with `scale=1`, at which it would have no effect; or a
            prompt for a model that reads none.
    """

    card: ClassVar[Card]
    couples: ClassVar[bool] = False
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)

    def __init__(
        self,
        model: Prior | ScoreModel,
        prompt: Prompt = None,
        *,
        negative: Prompt = None,
        scale: float = 1.0,
        weight: Weight = _SIGMA_SQUARED,
        t_law: TimeDraw = _UNIFORM,
        limits: Sequence[Limit] = (),
    ) -> None:
        super().__init__()
        if not math.isfinite(scale):
            raise ValueError(f"scale is {scale}, expected a finite number; 1 is no guidance.")
        if scale == 1 and negative is not None:
            raise ValueError(
                "A negative prompt has no effect at scale = 1; give a scale, for example 30."
            )
        if scale != 1 and prompt is None and negative is None:
            raise ValueError(f"scale is {scale}, but there is no prompt to guide to; give one.")
        # Of a prior the network alone is kept, so that drop_text() does free the text encoder.
        self.model = model.score if isinstance(model, Prior) else model
        self.condition = condition_of(model, prompt)
        self.null = None if scale == 1 else null_of(model, negative)
        self.scale = float(scale)
        self.weight = weight
        self.t_law = t_law
        self.limits = tuple(limits)
        self.last: Last | None = None
        self.progress = 0.0
        self.rng: Sequence[Generator] = ()
        self._rng: list[Generator] = []
        self._x_0_hat: Tensor | None = None

    @abstractmethod
    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """The gradient before its weight; called with gradients off.

        Args:
            x_0: what is optimised, [n, *shape].
            x_t: the same after `level.perturb`, [n, *shape].
            level: the noise level, a time a row.
            eps: the noise, [n, *shape].

        Returns:
            R, [n, *shape], whose row i depends on row i of the arguments only.
        """

    def noise(self, x_0: State, rng: Sequence[Generator]) -> State:
        """Where eps comes from, [n, *shape]: fresh from each row's generator.

        Args:
            x_0: what is optimised, without a graph.
            rng: a generator a row.
        """
        dtype = x_0.dtype if x_0.dtype == torch.float64 else torch.float32
        return normal(rng, x_0.shape[1:], dtype=dtype).to(x_0.device, non_blocking=True)

    def besides(self, x_0: State, level: NoiseLevel) -> State | None:
        """Parts of the gradient that carry no weight, or None; called with gradients off.

        Args:
            x_0: what is optimised.
            level: the noise level of this call.
        """
        return None

    def fit(
        self, x_0: State, *, progress: float = 0.0, rng: Sequence[Generator] | None = None
    ) -> None:
        """Train a network of the method's own on what there is now; `optimize` calls it.

        Args:
            x_0: what is optimised, without a graph.
            progress: how much of the optimisation is over, in [0, 1].
            rng: a generator a row; None for the loss's own.
        """

    def state(self) -> dict[str, Tensor]:
        """What the loss keeps from call to call, by name, so that a run can be put away."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave, for a loss that was made alike.

        Args:
            state: tensors by name.
        """

    def guided(self, x_t: State, level: NoiseLevel, *, scale: float | None = None) -> Prediction:
        """The prediction with guidance, scale eps_hat(c) + (1 - scale) eps_hat(n).

        Network evaluations a row: 2, in one batched call; 1 at `scale=1` and at `scale=0`.

        Args:
            x_t: noisy states, [n, *shape].
            level: their noise level.
            scale: another one than the loss's.
        """
        scale = self.scale if scale is None else scale
        if scale == 1:
            seen = self.model(x_t, level, self.condition)
        else:
            conditions, weights = (self.condition, self.null), (scale, 1 - scale)
            seen = combine(self.model, x_t, level, conditions, weights)
        self._x_0_hat = seen.x_0
        return seen

    @torch.no_grad()
    def gradient(
        self, x_0: State, *, progress: float = 0.0, rng: Sequence[Generator] | None = None
    ) -> State:
        """What `optimize` asks for: the gradient by x_0, w R with what besides and the limits.

        Hooks of a forward pass belong to `forward` and are not called.

        Args:
            x_0: what is optimised, in the model's space, [n, *shape].
            progress: how much of the optimisation is over, in [0, 1]; laws of t may use it.
            rng: a generator a row; None for the loss's own, which belong to the seeds 0, 1, ...
                and go on from call to call.

        Returns:
            dL/dx_0, [n, *shape], in x_0's dtype; L itself, a number a row, is in `last`.

        Raises:
            ValueError: not one generator a row, or not the shape that the model takes.
        """
        n = len(x_0)
        rng = self._generators(n) if rng is None else rng
        if len(rng) != n:
            raise ValueError(f"{len(rng)} generators were given for {n} rows; give one a row.")
        self.progress, self.rng, self._x_0_hat = progress, rng, None
        fixed = x_0.detach()
        t = self.t_law(uniform(rng), progress)
        eps = self.noise(fixed, rng)
        level = self.model.level(t, fixed)
        residual = self.residual(fixed, level.perturb(fixed, eps), level, eps)
        gradient = self.weight(level) * residual
        extra = self.besides(fixed, level)
        gradient = gradient if extra is None else gradient + extra
        for limit in self.limits:
            gradient = limit(gradient, Seen(fixed, level, residual, progress, self._x_0_hat))
        gradient = gradient.to(x_0.dtype)
        self.last = Last(residual.square().flatten(1).mean(1), level.t, gradient)
        return gradient

    def forward(
        self, x_0: State, *, progress: float = 0.0, rng: Sequence[Generator] | None = None
    ) -> Tensor:
        """The loss, for any loop: a scalar, the mean of `last.values`, with `gradient` by x_0.

        Arguments and errors are those of `gradient`.
        """
        slope = self.gradient(x_0, progress=progress, rng=rng)
        assert self.last is not None
        return _Inject.apply(x_0, slope, self.last.values)

    def describe(self) -> dict[str, object]:
        """The loss and its numbers, for a manifest."""
        return {
            "name": type(self).__name__,
            "scale": self.scale,
            "weight": repr(self.weight),
            "t_law": repr(self.t_law),
            "limits": [repr(limit) for limit in self.limits],
            "model": self.model.describe(),
        }

    def _generators(self, n: int) -> list[Generator]:
        if n > len(self._rng):
            self._rng += generators(range(len(self._rng), n), "noise")
        return self._rng[:n]


class _Inject(torch.autograd.Function):
    """The mean of some values, with a gradient of somebody else's by x_0."""

    @staticmethod
    def forward(ctx: Any, x_0: Tensor, gradient: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return values.mean()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream.to(gradient.dtype) * gradient, None, None


def condition_of(model: Prior | ScoreModel, prompt: Prompt) -> Condition | None:
    """A prompt as a condition, encoded by the prior.

    Raises:
        ValueError: a text for a bare `ScoreModel`.
    """
    if isinstance(prompt, Condition):
        return prompt
    if isinstance(model, Prior):
        return model.condition(prompt)
    if prompt is None:
        return None
    raise ValueError(
        f"The prompt {prompt!r} was given to a bare {type(model).__name__}, which reads no text; "
        "give the loss the Prior that load() returns, or a Condition."
    )


def null_of(model: Prior | ScoreModel, negative: Prompt) -> Condition | None:
    """What guidance leads away from: `negative`, or a prior's null prompt.

    Raises:
        ValueError: a bare `ScoreModel`, which has no null prompt, and no condition.
    """
    if negative is None and not isinstance(model, Prior):
        raise ValueError(
            f"Guidance needs a condition to lead away from, and a bare {type(model).__name__} has "
            "no null prompt; give negative= a Condition, or scale = 1."
        )
    return condition_of(model, negative)
