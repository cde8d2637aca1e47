"""What annealed sampling does to points in the plane, in five pictures.

    score_field.png   the score, one or several side by side, as arrows over the density
    trajectories.png  where some of the points went
    annealing.png     the cloud at some of the noise levels
    langevin.gif      the cloud at all of them
    moments.png       mean and variance at each level, and those of the exact law there

The states of a sampler are taken in the scale of x_0, y = x_t / alpha, whose law at the ratio
r = sigma / alpha has the mean of the data and their variance + r^2.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from sdstoolkit import plots
from sdstoolkit.toy import POINTS, Empirical, Mixture

__all__ = ["LAWS", "Plane", "law", "portrait"]

LAWS = (*POINTS, "mixture")

MOMENTS_FROM = 100_000  # draws that stand for the exact law

Open = Callable[[str], AbstractContextManager[Path]]
Field = Callable[[Tensor], Tensor]
Plane = Empirical | Mixture


def law(name: str) -> Plane:
    """A law in the plane whose score is exact at every noise level.

    Args:
        name: one of `LAWS`: 500 points under a blur of 0.1, or two Gaussians of 0.3 and 0.7.
    """
    if name == "mixture":
        return Mixture([[-2.0, 0.0], [2.0, 1.0]], std=0.3, weights=[0.3, 0.7])
    return Empirical(POINTS[name](500, 0), std=0.1)


def portrait(
    open_file: Open,
    target: Plane,
    states: Sequence[Tensor],
    ladder: Sequence[float],
    *,
    fields: Mapping[str, Field],
    title: str = "",
) -> None:
    """Draw the five pictures.

    Args:
        open_file: Of a name in the folder, a context with the path to write at.
        target: The law of x_0.
        states: Of an annealed sampler, ``[n, 2]`` each: the first, one a level, the last.
        ladder: The ratios sigma / alpha of the levels, in between.
        fields: Scores by name, from ``[n, 2]`` to ``[n, 2]``.
        title: Words above the figures.

    Raises:
        ValueError: Not as many states as levels and two, or not in the plane.
    """
    if len(states) != len(ladder) + 2:
        raise ValueError(
            f"there are {len(states)} states and {len(ladder)} levels, expected two states more "
            "than levels: the first and the last"
        )
    points = target.sample(MOMENTS_FROM, seed=1).double()
    reach = 1.15 * float(points.abs().max())
    noise = torch.tensor([ladder[0], *ladder, 0.0], dtype=torch.float64)
    names = ["start", *(f"sigma = {r:.3g}" for r in ladder), "posterior mean"]
    spread = points.var(0) + noise[:, None] ** 2
    with open_file("score_field.png") as path:
        plots.score_field(path, fields, log_prob=target.log_prob, extent=(-reach, reach))
    late = [k for k, r in enumerate(ladder, 1) if r < reach / 2]
    with open_file("trajectories.png") as path:
        plots.trajectories(path, [states[k] for k in late] + [states[-1]], title=title)
    with open_file("annealing.png") as path:
        plots.annealing_strip(path, states, names=names, title=title)
    with open_file("langevin.gif") as path:
        plots.langevin_animation(
            path, states, names=names, log_prob=target.log_prob, extent=(-reach, reach)
        )
    with open_file("moments.png") as path:
        plots.moments(path, states, mean=points.mean(0), variance=spread, title=title)
