"""Multistep consistency sampling: all the way to x_0 in every step, and back to less noise.

    x_s = alpha_s f(x_t, t) + sigma_s z,   z ~ N(0, I),   the last step ends in f(x_t, t)

A consistency function f takes a point of the probability flow to the flow's end at t = 0, and so
noise to a draw in one step; noise added to a draw is a state of the law at s, from which the next
step starts, and what the first ones missed is made good. A latent consistency model's f is x_0_hat
(`adapters.latent_consistency` says why). Of any other model x_0_hat is the posterior mean, whose
spread is too small: there the flow or the ancestral sampler is the way.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdstoolkit._typing import AnyTimes, Times
from sdstoolkit.condition import Condition
from sdstoolkit.grids import Grid, UniformTime
from sdstoolkit.noise import Discrete, Schedule
from sdstoolkit.samplers._walk import Draw, Sampler, place, positive, predict
from sdstoolkit.samplers.ddim import kernel
from sdstoolkit.score import ScoreModel

__all__ = ["Consistency", "Distilled"]

_UNIFORM = UniformTime()


@dataclass(frozen=True, kw_only=True)
class Distilled(Grid):
    """Of the times that a latent consistency model was distilled at, as even a choice as there is.

        t_i = ((T / N) (N - floor(N i / steps)) - 1) / (T - 1)

    on a table of T entries, of which the student saw every (T / N)-th; the last one is t = 0. Luo
    et al., 2023, https://arxiv.org/abs/2310.04378.

    Args:
        entries: N, how many the student saw, at least 1.

    Raises:
        ValueError: it is not; when called, a schedule that is no table, one whose length is no
            multiple of N, more steps than N, or other ends than 1 and 0.
    """

    entries: int = 50

    def __post_init__(self) -> None:
        if self.entries < 1:
            raise ValueError(f"{self} needs entries >= 1.")

    def place(self, schedule: Schedule, share: Times, ends: AnyTimes) -> Times:
        """Entries of the table."""
        if not isinstance(schedule, Discrete) or schedule.steps % self.entries:
            raise ValueError(f"{self} needs a table of a multiple of {self.entries} entries.")
        if len(share) - 1 > self.entries or ends.tolist() != [1.0, 0.0]:
            raise ValueError(f"{self} goes from t = 1 to t = 0 in at most {self.entries} steps.")
        passed = (self.entries * share + 1e-9).floor()  # a share such as 0.7 is a little less
        entry = schedule.steps // self.entries * (self.entries - passed) - 1
        return entry / (schedule.steps - 1)


class Consistency(Sampler):
    """x_0 in a step or a few, by a model that was distilled for it.

        x_s = alpha_s x_0_hat + sigma_s z

    One network evaluation a step and row. Starts in N(0, sigma(start)^2 I).

    References:
        Song, Dhariwal, Chen and Sutskever, Consistency Models, 2023,
        https://arxiv.org/abs/2303.01469, algorithm 1; Luo et al., Latent Consistency Models, 2023,
        https://arxiv.org/abs/2310.04378, algorithm 3.

    Args:
        model: the score model; its guidance, if it was distilled for one, is in the condition.
        steps: how many, at least 1.
        grid: which times; `Distilled` has those that a latent consistency model was taught.
        start: the first time, in (0, 1].
        stop: where the grid ends, in [0, start). The network is not called there.

    Raises:
        ValueError: numbers out of range; when run, times at which the model is ill-posed.
    """

    def __init__(
        self,
        model: ScoreModel,
        *,
        steps: int = 4,
        grid: Grid = _UNIFORM,
        start: float = 1.0,
        stop: float = 0.0,
    ) -> None:
        positive(steps=steps)
        if not start > stop:
            raise ValueError(f"start = {start} is not after stop = {stop}; sampling goes down.")
        self.model, self.shape = model, model.shape
        self.times: list[float] = grid(model.schedule, steps, start, stop).tolist()[:-1]

    def begin(self, draw: Draw) -> Tensor:
        """Noise alone, N(0, sigma(start)^2 I)."""
        return kernel(self.model.schedule, self.times[0])[1] * draw.normal()

    def walk(self, x: Tensor, draw: Draw, condition: Condition | None) -> Iterator[Tensor]:
        """The states at the times after the first, and then x_0."""
        for t, s in zip(self.times, self.times[1:], strict=False):
            alpha, sigma = kernel(self.model.schedule, s)
            x = alpha * predict(self.model, x, t, condition).x_0 + sigma * draw.normal()
            yield x
        yield predict(self.model, x, self.times[-1], condition).x_0

    def device(self) -> torch.device:
        """The model's device."""
        return place(self.model)
