from collections.abc import Callable

import pytest
import torch
from problems import table, zero_terminal_table
from torch import Tensor

from sdstoolkit.grids import (
    Grid,
    KarrasRho,
    LinearAnneal,
    NoiseFraction,
    PowerAnneal,
    Shifted,
    SqrtAnneal,
    TimeLaw,
    TwoStage,
    UniformLaw,
    UniformLogSNR,
    UniformTime,
)
from sdstoolkit.noise import EDM, VE, VP, Cosine, Discrete, Rectified, Schedule

GRIDS = (UniformTime(), UniformLogSNR(), KarrasRho(), NoiseFraction(), Shifted(3.0))
SCHEDULES = (
    VP(),
    VE(sigma_min=0.01, sigma_max=50.0),
    EDM(),
    Cosine(),
    Rectified(),
    Discrete(table()),
    Discrete(zero_terminal_table()),
)
by_name = {"ids": lambda v: type(v).__name__}


def even(values: Tensor) -> bool:
    return torch.allclose(values.diff(), values.diff().mean().expand(len(values) - 1), rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, **by_name)
@pytest.mark.parametrize("grid", GRIDS, **by_name)
def test_grids_go_both_ways(grid: Grid, schedule: Schedule) -> None:
    down, up = grid(schedule, 20, 0.98, 0.01), grid(schedule, 20, 0.01, 0.98)
    assert down.dtype == torch.float64 and down.shape == (21,) and (down.diff() < 0).all()
    assert down[0] == 0.98 and down[-1] == 0.01  # exactly
    assert torch.allclose(down.flip(0), up, atol=1e-9)


def test_each_is_even_in_its_own_function() -> None:
    schedule = Cosine()

    def ratio(t: Tensor) -> Tensor:
        alpha, sigma = schedule(t)
        return sigma / alpha

    assert even(UniformTime()(schedule, 9, 0.9, 0.1))
    assert even(schedule.log_snr(UniformLogSNR()(schedule, 9, 0.9, 0.1)))
    assert even(ratio(KarrasRho(rho=3.0)(schedule, 9, 0.9, 0.1)) ** (1 / 3))
    r = ratio(NoiseFraction()(schedule, 9, 0.9, 0.1))
    assert even(r / (1 + r))


def test_the_shift_of_flows() -> None:
    """Shifted by 3 are the sigmas of FlowMatchEulerDiscreteScheduler(shift=3), its sampler's."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0.1, 10).tolist())
    ours = Shifted(3.0)(Rectified(), 10, 1.0, 0.0)
    assert torch.allclose(ours, scheduler.sigmas.double(), rtol=1e-6, atol=1e-7)
    assert torch.equal(Shifted(1.0)(VP(), 7, 0.9, 0.1), UniformTime()(VP(), 7, 0.9, 0.1))
    with pytest.raises(ValueError, match="needs shift > 0"):
        Shifted(0.0)


def test_the_grid_of_edm() -> None:
    """Equation 5 of Karras et al., on any schedule that reaches these levels."""
    i = torch.arange(18, dtype=torch.float64)
    sigmas = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    for schedule in (EDM(), VE(sigma_min=0.002, sigma_max=80.0)):
        grid = KarrasRho()(schedule, 17, 1.0, 0.0)
        assert torch.allclose(schedule(grid)[1], sigmas, rtol=1e-9)


def test_ends_without_signal_or_noise() -> None:
    for schedule in (Rectified(), Cosine(), Discrete(zero_terminal_table())):
        full = NoiseFraction()(schedule, 10, 1.0, 0.0)
        assert full.isfinite().all() and full[0] == 1 and full[-1] == 0
        for grid in (KarrasRho(), UniformLogSNR()):
            with pytest.raises(ValueError, match="stay inside"):
                grid(schedule, 10, 1.0, 0.5)
    assert torch.allclose(
        NoiseFraction()(Rectified(), 10, 1.0, 0.0), UniformTime()(Rectified(), 10, 1.0, 0.0)
    )
    assert KarrasRho()(VP(), 10, 1.0, 0.0)[-1] == 0  # a root of zero is zero
    with pytest.raises(ValueError, match="UniformLogSNR"):
        UniformLogSNR()(VP(), 10, 1.0, 0.0)


@pytest.mark.parametrize(
    ("steps", "start", "stop"),
    [(0, 1.0, 0.0), (5, 0.5, 0.5), (5, 1.2, 0.0), (5, 0.0, -0.1), (5, float("nan"), 0.0)],
)
def test_bad_grids(steps: int, start: float, stop: float) -> None:
    with pytest.raises(ValueError, match="steps|two times"):
        UniformTime()(VP(), steps, start, stop)


U = torch.linspace(0, 0.999, 1000, dtype=torch.float64)


def test_uniform_law() -> None:
    t = UniformLaw(t_min=0.1, t_max=0.6)(U, 0.7)
    assert t.dtype == torch.float64 and t[0] == 0.1 and t[-1] < 0.6
    assert even(t) and torch.equal(t, UniformLaw(t_min=0.1, t_max=0.6)(U, 0.0))
    assert (UniformLaw(t_min=0.3, t_max=0.3)(U, 0) == 0.3).all()


def test_two_stages() -> None:
    law = TwoStage(t_late=0.5, switch=0.4)
    assert law(U, 0.39).max() > 0.97 and law(U, 0.4).max() < 0.5
    assert law(U, 0.0).min() == law(U, 1.0).min() == 0.02


@pytest.mark.parametrize(
    ("law", "shape"), [(LinearAnneal(), 1.0), (SqrtAnneal(), 0.5), (PowerAnneal(power=0.7), 0.7)]
)
def test_annealing(law: TimeLaw, shape: float) -> None:
    for progress in (0.0, 0.25, 1.0):
        t = law(U, progress)
        assert torch.allclose(t, torch.tensor(0.98 - 0.96 * progress**shape).double())
        assert t.shape == U.shape and t.unique().numel() == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: UniformLaw(t_min=0.9, t_max=0.1),
        lambda: LinearAnneal(t_min=-0.1),
        lambda: SqrtAnneal(t_max=1.1),
        lambda: PowerAnneal(power=0.0),
        lambda: UniformLaw(t_max=float("nan")),
        lambda: TwoStage(t_late=0.99),
        lambda: TwoStage(t_late=0.01),
        lambda: TwoStage(switch=1.5),
        lambda: KarrasRho(rho=0.0),
    ],
)
def test_bad_ranges(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="needs"):
        make()


@pytest.mark.parametrize("law", [UniformLaw(), TwoStage(), LinearAnneal(), SqrtAnneal()])
def test_bad_progress(law: TimeLaw) -> None:
    for progress in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="progress"):
            law(U, progress)
