"""Explicit Runge-Kutta steps for dy/ds = f(y, s), from Butcher tableaus.

    k_i = f(y + h sum_{j<i} a_ij k_j, s + c_i h),   y(s + h) = y + h sum_i b_i k_i

Nothing here knows of diffusion. A step may be negative: to integrate backwards, reverse the grid.
s is a float64 number throughout, whatever the dtype of y (Hairer, Norsett and Wanner, Solving
Ordinary Differential Equations I, 1993, https://doi.org/10.1007/978-3-540-78862-1).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Field = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Tableau:
    """The coefficients of an explicit Runge-Kutta method.

    Args:
        a: row i has the i weights of the earlier stages.
        b: weights of the stages, summing to 1.
        c: places of the stages, c_i = sum_j a_ij.
        order: the global error is O(h^order).
        name: what it is called.

    Raises:
        ValueError: the coefficients are not those of a consistent explicit method.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    order: int
    name: str

    def __post_init__(self) -> None:
        explicit = [len(row) for row in self.a] == list(range(len(self.b)))
        sums = [*(sum(row) for row in self.a), sum(self.b)]
        places = [*self.c, 1.0]
        if not explicit or len(sums) != len(places):
            raise ValueError(f"{self.name} is not explicit: row i of a needs i entries.")
        if any(abs(x - y) > 1e-12 for x, y in zip(sums, places, strict=True)):
            raise ValueError(f"{self.name} is inconsistent: a's rows sum to c and b sums to 1.")


EULER = Tableau(((),), (1.0,), (0.0,), 1, "Euler")
HEUN = Tableau(((), (1.0,)), (0.5, 0.5), (0.0, 1.0), 2, "Heun")
RK4 = Tableau(
    ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    (0.0, 0.5, 0.5, 1.0),
    4,
    "RK4",
)


def step(tableau: Tableau, f: Field, y: Tensor, s: float, h: float) -> Tensor:
    """One step from s to s + h; len(tableau.b) evaluations of f.

    Args:
        tableau: the method.
        f: f(y, s) = dy/ds, of the shape of y.
        y: the state at s.
        s: where it is.
        h: how far to go, of either sign.
    """
    stages: list[Tensor] = []
    for row, place in zip(tableau.a, tableau.c, strict=True):
        stages.append(f(_advance(y, h, row, stages), s + place * h))
    return _advance(y, h, tableau.b, stages)


def trajectory(tableau: Tableau, f: Field, y: Tensor, grid: Tensor) -> Iterator[Tensor]:
    """The states at the points of a grid, one after the other; the first is y itself.

    len(tableau.b) evaluations of f an interval, made when the next state is asked for.

    Args:
        tableau: the method.
        f: f(y, s) = dy/ds, of the shape of y.
        y: the state at grid[0].
        grid: strictly rising or strictly falling, [steps + 1].

    Raises:
        ValueError: the grid is not such a list of numbers.
    """
    steps = grid.diff() if grid.ndim == 1 else grid
    if grid.ndim != 1 or len(grid) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            f"The grid {list(grid.shape)} is not a strictly rising or falling list of two numbers "
            "or more."
        )
    return _visit(tableau, f, y, grid.to(torch.float64).tolist())


def integrate(tableau: Tableau, f: Field, y: Tensor, grid: Tensor) -> Tensor:
    """The state at the end of a grid, y(grid[-1]) from y = y(grid[0]).

    (len(grid) - 1) len(tableau.b) evaluations of f. Arguments and errors are `trajectory`'s.
    """
    for state in trajectory(tableau, f, y, grid):
        y = state
    return y


def _visit(tableau: Tableau, f: Field, y: Tensor, places: list[float]) -> Iterator[Tensor]:
    yield y
    for s, s_next in zip(places, places[1:], strict=False):
        y = step(tableau, f, y, s, s_next - s)
        yield y


def _advance(y: Tensor, h: float, weights: tuple[float, ...], stages: list[Tensor]) -> Tensor:
    """Y + h sum_j weights_j stages_j; a zero weight costs nothing."""
    for weight, stage in zip(weights, stages, strict=True):
        if weight:
            y = y + (h * weight) * stage
    return y
