"""Where a walk goes next, for guidance that depends on the length of a step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sdstoolkit.noise import NoiseLevel, Schedule

__all__ = ["Grid"]


class Grid:
    """The falling times that a sampler visits.

    Args:
        times: such as `DDIM(...).times`.

    Raises:
        ValueError: they do not fall.
    """

    def __init__(self, times: Sequence[float] | Tensor) -> None:
        t = torch.as_tensor(times, dtype=torch.float64).cpu()
        if t.ndim != 1 or len(t) < 1 or not bool((t.diff() < 0).all()):
            raise ValueError(
                "The times of the grid do not fall; give those that a sampler visits."
            )
        self.times = t

    def __len__(self) -> int:
        return len(self.times)

    def place(self, level: NoiseLevel) -> Tensor:
        """Which time of the grid each row is at, [n]; waits for the device.

        Raises:
            ValueError: a time that is not of the grid.
        """
        t = level.t.cpu()
        off, k = (t[:, None] - self.times).abs().min(1)
        if bool((off > 1e-9).any()):
            raise ValueError(f"t = {float(t[off.argmax()]):.6g} is not a time of the grid.")
        return k

    def below(self, schedule: Schedule, level: NoiseLevel) -> NoiseLevel:
        """The next level of each row; after the last time it is the clean end, alpha = 1."""
        k = self.place(level)
        end = (k == len(self.times) - 1).to(level.alpha.device).reshape(level.alpha.shape)
        at = schedule.level(self.times[(k + 1).clamp(max=len(self.times) - 1)], level.alpha)
        return NoiseLevel(at.t, torch.where(end, 1.0, at.alpha), torch.where(end, 0.0, at.sigma))
