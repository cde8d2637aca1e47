"""Any function as a score model: f(x_t, t, condition), what it returns, the noise it is made for.

    out = f(x_t, t, condition) = a x_0_hat + b eps_hat,   (a, b) of the parameterisation

For closed forms, for networks of one's own, and for pretrained ones that no family here opens.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.noise import NoiseLevel, Schedule
from sdstoolkit.prediction import Parameterization
from sdstoolkit.score import ScoreModel

Function = Callable[[Tensor, Tensor, Condition | None], Tensor]


class CallableScore(ScoreModel):
    """A score model that calls f(x_t, t, condition).

        out = f(x_t, t, condition),   x_t = alpha(t) x_0 + sigma(t) eps

    A function that is an nn.Module becomes a submodule: it moves with `.to`, and its parameters
    set the dtype that it is called in. It is not frozen and its mode is not changed: that is the
    caller's business, who may be training it. Costs what the function costs.

    Args:
        function: called with x_t [n, *shape], t float64 [n] in [0, 1] (for a table of T steps,
            `schedule.timestep(t)` is k = t (T - 1)) and the condition, whose tensors have n rows,
            or None; returns [n, *shape].
        schedule: alpha(t) and sigma(t).
        parameterization: what the function returns.
        shape: of one sample.

    Example:
        CallableScore(f, schedule=VP(), parameterization=Epsilon(), shape=(3, 32, 32))
    """

    def __init__(
        self,
        function: Function,
        *,
        schedule: Schedule,
        parameterization: Parameterization,
        shape: Sequence[int],
    ) -> None:
        super().__init__()
        if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
            raise ValueError(f"shape is {shape!r}, expected the positive sizes of one sample.")
        self.function = function
        self.schedule = schedule
        self.parameterization = parameterization
        self.shape = tuple(shape)

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The function of x_t, t and the condition, as `ScoreModel.output`."""
        out = self.function(x_t, level.t, condition)
        if not isinstance(out, Tensor):
            raise ValueError(f"The function returned a {type(out).__name__}, expected a tensor.")
        return out
