"""A pretrained network as a score model.

    x_t, t, condition  ->  Prediction(x_0, eps, score, v, flow)

A score model is a network, the schedule it was trained with, and the meaning of its output. Every
parameterisation is affine in the output at a given (x_t, t), so a weighted sum of predictions with
weights that sum to one is the prediction of the weighted sum of outputs; `combine` is that, in one
batched call. Classifier-free guidance (Ho and Salimans, 2022, https://arxiv.org/abs/2207.12598) is
the weights (scale, 1 - scale) on a conditional and an unconditional prediction.

`ScoreModel.outputs` is the only place that casts dtypes and lays rows out. The state is float32 or
float64; the network may be bfloat16; the outputs are back in the state's dtype before they mix.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from sdstoolkit._dtype import first_floating
from sdstoolkit.condition import Condition, cat
from sdstoolkit.noise import NoiseLevel, Schedule
from sdstoolkit.prediction import Parameterization, Prediction


class ScoreModel(nn.Module, ABC):
    """A network with its schedule and parameterisation; a new one writes `output` only.

        eps_hat(x_t, t, c) = -sigma grad log p_t(x_t | c)

    One call is one network evaluation a row. Gradients are recorded as torch is told to; callers
    that need none use ``torch.no_grad()``.

    Attributes:
        schedule: the kernel p(x_t | x_0) the network was trained with.
        parameterization: what the network returns.
        shape: of one sample, from the network's configuration. The first axis (channels) is
            binding; the others are the default size.
    """

    schedule: Schedule
    parameterization: Parameterization
    shape: tuple[int, ...]

    @abstractmethod
    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The network's own output, [n, *shape].

        Args:
            x_t: noisy states, [n, *shape], in `self.dtype`.
            level: their noise level, n rows.
            condition: n rows (or empty), floating-point tensors in `self.dtype`; or None.
        """

    def forward(
        self, x_t: Tensor, t: float | Tensor | NoiseLevel, condition: Condition | None = None
    ) -> Prediction:
        """What the network knows about x_t. One network evaluation a row.

        Args:
            x_t: noisy states, [n, *shape].
            t: time in [0, 1], one for all rows or [n]; or a level made by `level`.
            condition: 1 or n rows; None for an unconditional model.

        Raises:
            ValueError: a wrong shape, time or number of rows, or a level at which the network's
                output does not determine x_0 and eps.
        """
        level = self.level(t, x_t)
        (output,) = self.outputs(x_t, level, [condition])
        return self.parameterization.resolve(output, x_t, level)

    def level(self, t: float | Tensor | NoiseLevel, x_t: Tensor) -> NoiseLevel:
        """The noise level of x_t, checked to suit the parameterisation; a ready one passes.

        Args:
            t: time in [0, 1], one for all rows or [n]; or a level of n rows.
            x_t: noisy states, [n, *shape].

        Raises:
            ValueError: as `forward`.
        """
        if x_t.ndim != 1 + len(self.shape) or x_t.shape[1] != self.shape[0]:
            expected = ", ".join(map(str, ("n", *self.shape)))
            raise ValueError(f"x_t has shape {list(x_t.shape)}; this model takes [{expected}].")
        if not isinstance(t, NoiseLevel):
            return self.schedule.level(t, x_t, check=self.parameterization.check)
        if len(t.t) != len(x_t):
            raise ValueError(f"A level of {len(t.t)} rows was given for {len(x_t)} rows of x_t.")
        return t

    def outputs(
        self, x_t: Tensor, level: NoiseLevel, conditions: Sequence[Condition | None]
    ) -> tuple[Tensor, ...]:
        """The network's output under each condition, from one batched call of k n rows.

        Args:
            x_t: noisy states, [n, *shape].
            level: their noise level.
            conditions: k conditions of 1 or n rows, or None throughout.

        Returns:
            k outputs, [n, *shape], in float32 or the state's float64.

        Raises:
            ValueError: conditions that do not fit together or x_t, or an output of another shape.
        """
        n, k = len(x_t), len(conditions)
        state = level.alpha.dtype
        dtype = self.dtype or state
        condition = None
        if any(c is not None for c in conditions):
            given = [Condition() if c is None else c.expand(n) for c in conditions]
            condition = (given[0] if k == 1 else cat(*given)).to(x_t.device, dtype)
        x = x_t.to(dtype)
        if k > 1:
            x, *rows = (torch.cat([v] * k) for v in (x, *level))
            level = NoiseLevel(*rows)
        output = self.output(x, level, condition)
        if output.shape != x.shape:
            raise ValueError(
                f"{type(self).__name__}.output returned shape {list(output.shape)} for x_t "
                f"{list(x.shape)}; it must return one value for each of x_t."
            )
        return output.to(state).chunk(k)

    def mix(
        self,
        x_t: Tensor,
        level: NoiseLevel,
        conditions: Sequence[Condition | None],
        weights: Sequence[float],
    ) -> Tensor:
        """sum_i w_i output(x_t, c_i) in one batched call; conditions of zero weight cost nothing.

        Args:
            x_t: noisy states, [n, *shape].
            level: their noise level.
            conditions: k conditions of 1 or n rows.
            weights: k numbers, not all zero. Only weights that sum to 1 make the result an output
                of the same parameterisation.

        Raises:
            ValueError: not one weight for each condition, or none that counts.
        """
        if len(weights) != len(conditions):
            raise ValueError(f"{len(conditions)} conditions came with {len(weights)} weights.")
        terms = [(c, w) for c, w in zip(conditions, weights, strict=True) if w != 0]
        if not terms:
            raise ValueError("All weights are zero; give at least one condition a weight.")
        outputs = self.outputs(x_t, level, [c for c, _ in terms])
        mixed = outputs[0] * terms[0][1]
        for output, (_, weight) in zip(outputs[1:], terms[1:], strict=True):
            mixed = mixed + output * weight
        return mixed

    def describe(self) -> dict[str, object]:
        """What a manifest records about the model; guidance adds its own line."""
        return {
            "name": type(self).__name__,
            "schedule": self.schedule.describe(),
            "parameterization": self.parameterization.describe(),
            "shape": list(self.shape),
        }

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of the network's parameters; None (the state's) if it has none.

        A model that only wraps others returns None, so that they receive the state uncast.
        """
        return first_floating(self)


def combine(
    model: ScoreModel,
    x_t: Tensor,
    t: float | Tensor | NoiseLevel,
    conditions: Sequence[Condition | None],
    weights: Sequence[float],
) -> Prediction:
    """A weighted sum of predictions, eps = sum_i w_i eps_hat(x_t, t, c_i), and likewise x_0.

    Network evaluations a row: the number of weights that are not zero, in one batched call.

    Args:
        model: the score model.
        x_t: noisy states, [n, *shape].
        t: time in [0, 1], one for all rows or [n]; or a level.
        conditions: k conditions of 1 or n rows.
        weights: k numbers that sum to 1.

    Raises:
        ValueError: the weights do not sum to 1, or as `ScoreModel.forward`.
    """
    if not abs(sum(weights) - 1) <= 1e-6:
        raise ValueError(
            f"The weights {list(weights)} sum to {sum(weights):.6g}; a prediction needs 1."
        )
    level = model.level(t, x_t)
    output = model.mix(x_t, level, conditions, weights)
    return model.parameterization.resolve(output, x_t, level)


def each(
    model: ScoreModel,
    x_t: Tensor,
    t: float | Tensor | NoiseLevel,
    conditions: Sequence[Condition | None],
) -> tuple[Prediction, ...]:
    """A prediction for each condition, eps_hat(x_t, t, c_i), from one batched call.

    Network evaluations a row: the number of conditions.

    Args:
        model: the score model.
        x_t: noisy states, [n, *shape].
        t: time in [0, 1], one for all rows or [n]; or a level.
        conditions: k conditions of 1 or n rows.

    Raises:
        ValueError: as `ScoreModel.forward`.
    """
    level = model.level(t, x_t)
    outputs = model.outputs(x_t, level, conditions)
    return tuple(model.parameterization.resolve(output, x_t, level) for output in outputs)


def together(
    model: ScoreModel, *asked: tuple[Tensor, NoiseLevel, Condition | None]
) -> tuple[Prediction, ...]:
    """Predictions for several states, levels and conditions, eps_hat(x_i, t_i, c_i), at once.

    Network evaluations: the rows of all states, in one batched call.

    Args:
        model: the score model.
        asked: states [n_i, *shape], their levels, and conditions of 1 or n_i rows or None
            throughout.

    Raises:
        ValueError: as `ScoreModel.forward`.
    """
    x = torch.cat([x_t for x_t, _, _ in asked])
    level = NoiseLevel(*map(torch.cat, zip(*(level for _, level, _ in asked), strict=True)))
    condition = None
    if any(c is not None for _, _, c in asked):
        condition = cat(*((Condition() if c is None else c).expand(len(v)) for v, _, c in asked))
    (output,) = model.outputs(x, model.level(level, x), [condition])
    parts = output.split([len(x_t) for x_t, _, _ in asked])
    return tuple(
        model.parameterization.resolve(part, x_t, at)
        for part, (x_t, at, _) in zip(parts, asked, strict=True)
    )


def twin(model: ScoreModel) -> ScoreModel:
    """A copy of a score model whose parameters and buffers are the very tensors of the first.

    What is changed about its modules, the first does not notice.
    """
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)
