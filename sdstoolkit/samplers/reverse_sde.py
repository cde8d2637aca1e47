"""The reverse-time SDE, by Euler and Maruyama.

    dx = [f(t) x - g(t)^2 grad log p_t(x)] dt + g(t) dW,   t from 1 to 0

has the same laws p_t as the forward SDE dx = f x dt + g dW (Anderson, 1982,
https://doi.org/10.1016/0304-4149(82)90051-5; Song et al., 2021, https://arxiv.org/abs/2011.13456).
The ancestral sampler solves the same equation with steps that are exact for a known x_0; it needs
fewer of them (`sdstoolkit.samplers.ddim`).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.grids import Grid, UniformTime
from sdstoolkit.samplers._walk import Draw, Sampler, place, positive, predict
from sdstoolkit.samplers.ddim import clean, kernel
from sdstoolkit.score import ScoreModel

__all__ = ["ReverseSDE"]

_UNIFORM = UniformTime()


class ReverseSDE(Sampler):
    """Euler-Maruyama on the reverse SDE; ends in the posterior mean.

        x <- x - h (f x - g^2 s) + sqrt(h) g z,   h = t_i - t_(i+1)

    One network evaluation a step and row, and one more if there is still noise at `stop`. The
    bias falls with h. Starts in N(0, sigma(start)^2 I).

    Args:
        model: the score model.
        steps: how many, at least 1.
        grid: which times.
        start: the first time, in (0, 1]; f and g must be finite there.
        stop: the last one, in [0, start).

    Raises:
        ValueError: numbers out of range, or a time at which f or g is not finite: the straight
            path at t = 1; when run, rows that diverged.
    """

    def __init__(
        self,
        model: ScoreModel,
        *,
        steps: int = 500,
        grid: Grid = _UNIFORM,
        start: float = 1.0,
        stop: float = 1e-3,
    ) -> None:
        positive(steps=steps)
        if not start > stop:
            raise ValueError(f"start = {start} is not after stop = {stop}; sampling goes down.")
        self.model, self.shape = model, model.shape
        times = grid(model.schedule, steps, start, stop)
        f, g = model.schedule.drift(times[:-1]), model.schedule.diffusion(times[:-1])
        bad = ~(f.isfinite() & g.isfinite())
        if bad.any():
            raise ValueError(
                f"The SDE of {type(model.schedule).__name__} is not finite at t = "
                f"{times[:-1][bad][0]:.6g}; choose start and stop inside of (0, 1)."
            )
        self.times: list[float] = times.tolist()
        self.drift: list[float] = f.tolist()
        self.diffusion: list[float] = g.tolist()

    def begin(self, draw: Draw) -> Tensor:
        """Noise alone, N(0, sigma(start)^2 I)."""
        return kernel(self.model.schedule, self.times[0])[1] * draw.normal()

    def walk(self, x: Tensor, draw: Draw, condition: Condition | None) -> Iterator[Tensor]:
        """The states at the grid's times after the first, and then the posterior mean."""
        for k, (f, g) in enumerate(zip(self.drift, self.diffusion, strict=True)):
            t, h = self.times[k], self.times[k] - self.times[k + 1]
            s = predict(self.model, x, t, condition).score
            x = x - h * (f * x - g**2 * s) + h**0.5 * g * draw.normal()
            yield x
        yield from clean(self.model, x, self.times[-1], condition)

    def device(self) -> torch.device:
        """The model's device."""
        return place(self.model)
