import pytest
import torch
from problems import ODES, Problem, slope
from torch import Tensor

from sdstoolkit.integrate import EULER, HEUN, RK4, Tableau, integrate, step, trajectory

METHODS = (EULER, HEUN, RK4)
by_name = {"ids": lambda v: v.name}


def error(method: Tableau, problem: Problem, steps: int, forward: bool) -> float:
    ends = (problem.start, problem.stop) if forward else (problem.stop, problem.start)
    grid = torch.linspace(*ends, steps + 1, dtype=torch.float64)
    y = integrate(method, problem.f, problem.exact(ends[0]), grid)
    return float((y - problem.exact(ends[1])).abs().max())


@pytest.mark.parametrize("forward", [True, False], ids=["forward", "backward"])
@pytest.mark.parametrize("name", ODES)
@pytest.mark.parametrize("method", METHODS, **by_name)
def test_order(method: Tableau, name: str, forward: bool) -> None:
    sizes = [1 / steps for steps in (64, 96, 128, 192, 256)]
    errors = [error(method, ODES[name], round(1 / h), forward) for h in sizes]
    assert slope(sizes, errors) == pytest.approx(method.order, abs=0.1)


def test_there_and_back() -> None:
    problem = ODES["oscillator"]
    grid = torch.linspace(0, 3, 65, dtype=torch.float64)
    y = integrate(RK4, problem.f, problem.exact(0), grid)
    assert torch.allclose(integrate(RK4, problem.f, y, grid.flip(0)), problem.exact(0), atol=1e-5)


def test_trajectory_and_cost() -> None:
    calls: list[float] = []

    def f(y: Tensor, s: float) -> Tensor:
        calls.append(s)
        return torch.ones_like(y)

    grid = torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
    for method in METHODS:
        calls.clear()
        states = trajectory(method, f, torch.zeros(2), grid)
        assert torch.equal(next(states), torch.zeros(2)) and not calls  # made when asked for
        rest = list(states)
        assert torch.allclose(torch.stack(rest)[:, 0], grid[1:].float())
        assert len(calls) == 3 * len(method.b)
    assert calls[:4] == pytest.approx([0.0, 0.05, 0.05, 0.1])


def test_the_state_keeps_its_dtype_and_s_its_precision() -> None:
    seen: list[float] = []

    def f(y: Tensor, s: float) -> Tensor:
        seen.append(s)
        return y

    y = step(EULER, f, torch.ones(2, dtype=torch.float32), 0.1, 1e-9)
    assert y.dtype == torch.float32 and seen == [0.1]


@pytest.mark.parametrize(
    "grid",
    [
        torch.tensor([0.0]),
        torch.tensor(0.0),
        torch.tensor([0.0, 1.0, 0.5]),
        torch.tensor([0.0, 0.0]),
        torch.tensor([0.0, float("nan")]),
        torch.zeros(2, 2),
    ],
)
def test_bad_grids(grid: Tensor) -> None:
    with pytest.raises(ValueError, match="strictly"):
        integrate(EULER, lambda y, s: y, torch.zeros(1), grid)


@pytest.mark.parametrize(
    ("a", "b", "c", "message"),
    [
        (((), (1.0,)), (0.5, 0.4), (0.0, 1.0), "inconsistent"),
        (((), (0.5,)), (0.5, 0.5), (0.0, 1.0), "inconsistent"),
        (((1.0,),), (1.0,), (1.0,), "not explicit"),
        (((),), (0.5, 0.5), (0.0,), "not explicit"),
    ],
)
def test_bad_tableaus(a: tuple, b: tuple, c: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tableau(a, b, c, 2, "mine")
