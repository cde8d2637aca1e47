"""The probability flow: sampling, inversion and editing as one ODE in two directions.

The flow carries p_t to p_s without noise,

    d(x / alpha) / d(sigma / alpha) = eps_hat(x, t),

from noise to data to sample and from data to noise to invert (Song et al., 2021,
https://arxiv.org/abs/2011.13456). x_0 stands for x_t / alpha at the lower end of the times, which
is the data itself where the schedule begins without noise, and next to it for a table of betas.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from sdstoolkit._typing import Image, State
from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.grids import Grid
from sdstoolkit.rng import generators, normal, seeds_of
from sdstoolkit.samplers.inverted import Inverted, fingerprint
from sdstoolkit.samplers.report import Report, make
from sdstoolkit.score import ScoreModel
from sdstoolkit.solvers import ExponentialAdams, Field, Mark, Node, Solver

__all__ = ["FlowStep", "ProbabilityFlow"]

_SOLVER = ExponentialAdams()


@dataclass(frozen=True)
class FlowStep:
    """Where a walk along the flow is.

    Attributes:
        index, steps: which step was just made, 0 before the first, and how many there are.
        t: the time of x.
        x: the state x_t, [n, *shape].
        x_0: the posterior mean that the step came from, for a preview; None where there is none.
        evaluations: calls of the model so far.
        memory: what the way back needs besides x.
    """

    index: int
    steps: int
    t: float
    x: Tensor
    x_0: Tensor | None
    evaluations: int
    memory: tuple[Tensor, ...]


class ProbabilityFlow:
    """The probability flow of a score model; sampling is `start` to `stop`, inversion the reverse.

        d(x / alpha) / d(sigma / alpha) = eps_hat(x, t)

    Network evaluations: the solver's times the steps; 1 a step for the default.

    Args:
        model: the score model, guided or not.
        steps: how many, at least 1.
        solver: one of `sdstoolkit.solvers`; `ExponentialAdams()` by default.
        grid: where the nodes lie; what suits the solver by default, even in the log-SNR for most.
        start, stop: the noisy end and the clean one, 0 <= stop < start <= 1.
        dtype: of the state, float64 or float32, whatever the network's. float64 costs nothing
            beside a network, and without it no reversible solver is exact.
        tell: called with every step that is made, whatever it is made for: a progress bar.

    Raises:
        ValueError: one of these is out of range, or the grid cannot reach an end.
    """

    def __init__(
        self,
        model: ScoreModel,
        *,
        steps: int = 50,
        solver: Solver = _SOLVER,
        grid: Grid | None = None,
        start: float = 1.0,
        stop: float = 0.0,
        dtype: torch.dtype = torch.float64,
        tell: Callable[[FlowStep], object] = lambda step: None,
    ) -> None:
        if not 0 <= stop < start <= 1:
            raise ValueError(f"start = {start} and stop = {stop} are not 0 <= stop < start <= 1.")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype = {dtype} is not float32 or float64, the state's precisions.")
        self.model = model
        self.solver = solver
        self.count = steps
        self.dtype = dtype
        self.tell = tell
        self.grid = grid or solver.grid(model.schedule, start, stop)
        self.times = self.grid(model.schedule, steps, start, stop)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        tensor = next(chain(self.model.parameters(), self.model.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @cached_property
    def base(self) -> str:
        """The fingerprint of the network's weights, made when it is first needed."""
        return fingerprint(self.model)

    def noise(
        self, n: int, *, seed: int | Sequence[int] = 0, shape: Sequence[int] | None = None
    ) -> State:
        """Where samples start, x_T = sigma_T z; row i is its seed's, whatever the batch.

        Args:
            n: how many rows.
            seed: the first row's, or one a row; in [0, 2^32).
            shape: of a row; the model's by default.

        Raises:
            ValueError: see `rng.seeds_of`.
        """
        rng = generators(seeds_of(seed, n), "flow")
        z = normal(rng, shape or self.model.shape)  # float32, so that a seed has one meaning
        sigma = self.model.schedule(self.times[:1])[1].item()
        return sigma * z.to(self.device, self.dtype)

    def sample(
        self,
        n: int,
        condition: Condition | None = None,
        *,
        seed: int | Sequence[int] = 0,
        shape: Sequence[int] | None = None,
    ) -> State:
        """Draws x_0, [n, *shape].

        Args:
            n: how many.
            condition: of 1 or n rows; None for an unconditional model.
            seed: the first row's, or one a row; in [0, 2^32).
            shape: of a row; the model's by default.

        Raises:
            ValueError: such seeds, a condition that does not fit, or a time at which the
                network's output means nothing.
        """
        x_T = self.noise(n, seed=seed, shape=shape)
        return self._down(self.times, x_T, condition)

    def steps(
        self,
        x: Tensor,
        condition: Condition | None = None,
        *,
        invert: bool = False,
        memory: tuple[Tensor, ...] = (),
    ) -> Iterator[FlowStep]:
        """The states on the way, made when they are asked for.

        Args:
            x: x_T to sample, x_0 to invert, [n, *shape].
            condition: of 1 or n rows; None for an unconditional model.
            invert: go from `stop` to `start`.
            memory: an inversion's, to go back the same way.

        Raises:
            ValueError: as `sample`, when the first step is made.
        """
        times = self.times.flip(0) if invert else self.times
        if invert:
            x = self.model.schedule(times[:1])[0].item() * self._state(x)
        for step, _, _ in self._walk(times, x, condition, memory):
            yield step

    def clean(self, step: FlowStep) -> State:
        """The clean state that the last of `steps` stands for, [n, *shape]: x_t / alpha.

        Args:
            step: the last step of a walk without `invert`.
        """
        times = torch.tensor([step.t], dtype=torch.float64)
        alpha, sigma = (v.item() for v in self.model.schedule(times))
        return self.solver.clean(Mark(step.x, step.memory), Node(step.t, alpha, sigma))

    def invert(
        self,
        x_0: Tensor,
        condition: Condition | None = None,
        *,
        seed: int | Sequence[int] | None = None,
    ) -> Inverted:
        """The noise that the flow takes to x_0, with all that the way back needs.

        Args:
            x_0: clean states, [n, *shape].
            condition: of 1 or n rows; None for an unconditional model.
            seed: kept in the result, for what is drawn on the way to an edit.

        Raises:
            ValueError: as `sample`.
        """
        x_0 = self._state(x_0)
        times = self.times.flip(0)
        last = deque(self.steps(x_0, condition, invert=True), maxlen=1).pop()
        return Inverted(
            x_0=x_0,
            x_T=last.x,
            companion=last.memory,
            grid=times,
            condition=condition,
            model=self.model.describe(),
            base=self.base,
            solver=self.solver.describe(),
            seed=None if seed is None else seeds_of(seed, len(x_0)),
        )

    def replay(self, inverted: Inverted) -> State:
        """The way back under the same condition; exact for an exactly reversible solver.

        Args:
            inverted: what `invert` returned, for this model, guidance and solver.

        Raises:
            ValueError: it is of another one.
        """
        self._same(inverted, everything=True)
        times = inverted.grid.flip(0)
        return self._down(times, inverted.x_T, inverted.condition, inverted.companion)

    def edit(self, inverted: Inverted, condition: Condition | None) -> State:
        """The image of the same noise under another condition, and maybe more guidance.

        A companion state leads back to the image that was inverted; it is kept only where the
        solver says that it does not lead an edit astray.

        Args:
            inverted: what `invert` returned, of a flow with the same network.
            condition: the new one, of 1 or n rows.

        Raises:
            ValueError: it is of another network.
        """
        self._same(inverted, everything=False)
        times = self._between(inverted)
        same = torch.equal(times, inverted.grid.flip(0))
        keep = self.solver.keeps and same and self.solver.describe() == inverted.solver
        return self._down(times, inverted.x_T, condition, inverted.companion if keep else ())

    def report(
        self,
        inverted: Inverted,
        *,
        codec: Codec | None = None,
        image: Image | None = None,
        iterations: int = 3,
    ) -> Report:
        """How far an inversion can be trusted; `print` it.

        Network evaluations: (5 + iterations) times those of an inversion.

        Args:
            inverted: what `invert` returned, for this model, guidance and solver.
            codec: with `image`, for the reconstruction beside the codec's own.
            image: what x_0 was encoded from, [n, c, h, w] in [0, 1].
            iterations: of the power iteration for the gain; 0 leaves it out.

        Raises:
            ValueError: the inversion is of another model, or only one of codec and image is given.
        """
        if (codec is None) != (image is None):
            raise ValueError("Only one of codec and image was given; give both or neither.")
        back = self.replay(inverted)
        low, high = inverted.grid[0].item(), inverted.grid[-1].item()
        fine = ProbabilityFlow(
            self.model,
            steps=2 * (len(inverted.grid) - 1),
            solver=self.solver,
            grid=self.grid,
            start=high,
            stop=low,
            dtype=self.dtype,
            tell=self.tell,
        )
        finer = fine.invert(inverted.x_0, inverted.condition).x_T
        times = inverted.grid.flip(0)

        def down(x_T: Tensor) -> Tensor:
            return self._down(times, x_T, inverted.condition)

        sigma = self.model.schedule(inverted.grid[-1:])[1].item()
        return make(
            inverted, back, finer, down, sigma, codec=codec, image=image, iterations=iterations
        )

    def _down(
        self,
        times: Tensor,
        x_T: Tensor,
        condition: Condition | None,
        memory: tuple[Tensor, ...] = (),
    ) -> Tensor:
        """x_0 at the end of falling times."""
        _, mark, node = deque(self._walk(times, x_T, condition, memory), maxlen=1).pop()
        return self.solver.clean(mark, node)

    def _walk(
        self,
        times: Tensor,
        x: Tensor,
        condition: Condition | None,
        memory: tuple[Tensor, ...],
    ) -> Iterator[tuple[FlowStep, Mark, Node]]:
        """Every state, what the solver said of it, and its node."""
        x = self._state(x)
        if condition is not None:
            condition = condition.expand(len(x)).to(x.device)
        field = Field(self.model, condition)
        nodes = field.nodes(times)
        steps = len(nodes) - 1
        mark = None
        memory = tuple(v.to(x.device) for v in memory)
        for i, mark in enumerate(self.solver.walk(field, nodes, x, memory)):
            at = i if self.solver.visits else i * steps
            step = FlowStep(at, steps, nodes[at].t, mark.x, mark.x_0, field.calls, mark.memory)
            if at:
                self.tell(step)
            yield step, mark, nodes[at]
        _warn(mark)

    def _state(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise ValueError(f"The state has dtype {x.dtype}; expected a floating-point one.")
        return x.detach().to(self.device, self.dtype)

    def _between(self, inverted: Inverted) -> Tensor:
        """The times of this flow between the ends of an inversion, falling."""
        low, high = inverted.grid[0].item(), inverted.grid[-1].item()
        if (high, low) == (self.times[0].item(), self.times[-1].item()):
            return self.times
        return self.grid(self.model.schedule, self.count, high, low)

    def _same(self, inverted: Inverted, *, everything: bool) -> None:
        if inverted.base != self.base:
            raise ValueError(
                f"The inversion was made with another network: {inverted.model.get('name')} with "
                f"weights {inverted.base[:12] or 'unknown'}, and this is "
                f"{self.model.describe()['name']} with weights {self.base[:12]}; load that one, "
                "in the same dtype."
            )
        if everything and inverted.model != self.model.describe():
            raise ValueError(
                f"The inversion was made with {inverted.model}, and this flow has "
                f"{self.model.describe()}; replay it with the same guidance, or edit it."
            )
        if everything and inverted.solver != self.solver.describe():
            raise ValueError(
                f"The inversion was made by {inverted.solver}, and this flow has "
                f"{self.solver.describe()}; replay it with the same solver, or edit it."
            )


def _warn(mark: Mark | None) -> None:
    if mark is not None and not mark.x.isfinite().all():
        bad = (~mark.x.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        warnings.warn(
            f"Rows {bad} stopped being finite; take more steps, less guidance or a lower start.",
            RuntimeWarning,
            stacklevel=3,
        )
