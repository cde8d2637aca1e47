import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import table, zero_terminal_table
from torch import Tensor

from sdstoolkit.noise import EDM, VE, VP, Cosine, Discrete, NoiseLevel, Rectified, Schedule, SubVP

SCHEDULES = {
    "vp": VP(),
    "vp_flat": VP(beta_min=3.0, beta_max=3.0),
    "subvp": SubVP(),
    "ve": VE(sigma_min=0.01, sigma_max=50.0),
    "edm": EDM(),
    "cosine": Cosine(),
    "rectified": Rectified(),
    "table": Discrete(table()),
    "zero_terminal": Discrete(zero_terminal_table()),
    "short": Discrete(torch.tensor([0.9, 0.3, 0.0])),
}
each_schedule = pytest.mark.parametrize("name", SCHEDULES)
TIMES = st.floats(0, 1)


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Tangent(Schedule):
    """A schedule of the test's own, which writes the one method it must."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.exp(-t), 0.1 + t**2


@each_schedule
@settings(max_examples=20, deadline=None)
@given(t=TIMES)
def test_time_inverts_log_snr(name: str, t: float) -> None:
    schedule = SCHEDULES[name]
    log_snr = schedule.log_snr(t)
    back = schedule.time(log_snr)
    # Where log_snr hardly moves, its last bit is worth more of t than rounding alone.
    assert abs(float(back) - t) < 1e-12 or abs(schedule.log_snr(back) - log_snr) < 1e-12


@each_schedule
def test_the_inverse_at_the_ends_and_on_grids(name: str) -> None:
    schedule = SCHEDULES[name]
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    alpha, sigma = schedule(t)
    assert alpha.dtype == sigma.dtype == torch.float64
    assert (schedule.time(schedule.log_snr(t)) - t).abs().max() < 1e-12
    assert schedule.time(schedule.log_snr(t.reshape(1, -1, 1))).shape == (1, 4001, 1)
    assert ((sigma / alpha).diff() > 0).all() and (alpha >= 0).all() and (sigma >= 0).all()


@each_schedule
def test_the_fallback_inverts_too(name: str) -> None:
    schedule = SCHEDULES[name]
    t = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
    assert (Schedule._time(schedule, schedule.log_snr(t)) - t).abs().max() < 1e-12


@each_schedule
def test_unreachable_levels(name: str) -> None:
    schedule = SCHEDULES[name]
    for end in (0.0, 1.0):
        beyond = schedule.log_snr(end) + (0.1 if end == 0 else -0.1)
        if beyond.isfinite():
            with pytest.raises(ValueError, match="not within"):
                schedule.time(beyond)
    with pytest.raises(ValueError, match="nan"):
        schedule.time(float("nan"))


@each_schedule
def test_the_sde_has_the_kernel_as_its_marginal(name: str) -> None:
    """The mean and variance of dx = f x dt + g dW, integrated cell by cell.

    d log alpha = f dt and d(sigma^2 / alpha^2) = g^2 / alpha^2 dt, by three-point Gauss rules.
    """
    schedule = SCHEDULES[name]
    edges = torch.linspace(0, 1, 2 * 999 + 1, dtype=torch.float64)[:-80]
    middle, half = (edges[1:] + edges[:-1]) / 2, edges.diff() / 2
    nodes, weights = times(-(0.6**0.5), 0, 0.6**0.5), times(5, 8, 5) / 9
    t = middle[:, None] + half[:, None] * nodes

    def integral(f: Tensor) -> Tensor:
        return (half * (f * weights).sum(1)).cumsum(0)

    alpha, sigma = schedule(edges)
    log_mean = integral(schedule.drift(t))
    assert torch.allclose(log_mean, (alpha[1:] / alpha[0]).log(), rtol=1e-8, atol=1e-12)
    growth = integral(schedule.diffusion(t).square() / schedule(t)[0].square())
    ratio = (sigma / alpha).square()
    assert torch.allclose(growth, ratio[1:] - ratio[0], rtol=1e-8, atol=1e-12)


def test_known_drifts() -> None:
    t = times(0, 0.3, 1)
    beta = 0.1 + 19.9 * t
    B = 0.1 * t + 19.9 * t**2 / 2
    assert torch.allclose(VP().drift(t), -beta / 2)
    assert torch.allclose(VP().diffusion(t), beta.sqrt())  # finite where sigma is zero
    assert torch.allclose(SubVP().diffusion(t), (beta * (1 - torch.exp(-2 * B))).sqrt())
    with torch.inference_mode():
        assert torch.allclose(VP().drift(t), -beta / 2)


@pytest.mark.parametrize("abar", [table(), zero_terminal_table(), table().float()])
def test_a_table_is_exact_at_its_entries(abar: Tensor) -> None:
    schedule = Discrete(abar)
    t = torch.linspace(0, 1, 1000, dtype=torch.float64)
    alpha, sigma = schedule(t)
    assert (alpha - abar.double().sqrt()).abs().max() < 1e-12
    assert (sigma - (1 - abar.double()).sqrt()).abs().max() < 1e-12
    assert torch.equal(schedule.timestep(t).round(), torch.arange(1000.0, dtype=torch.float64))


def test_a_table_between_its_entries() -> None:
    abar = table()
    schedule = Discrete(abar)
    middle = (torch.arange(999, dtype=torch.float64) + 0.5) / 999
    assert torch.allclose(schedule(middle)[0], (abar[1:] * abar[:-1]) ** 0.25, rtol=1e-12)
    for kind in (schedule, Discrete(zero_terminal_table())):  # continuous across every entry
        entry = torch.arange(1, 999, dtype=torch.float64) / 999
        for before, after in zip(kind(entry - 1e-9), kind(entry + 1e-9), strict=True):
            assert (before - after).abs().max() < 1e-7


def test_zero_terminal_snr() -> None:
    abar = zero_terminal_table()
    schedule = Discrete(abar)
    assert [float(v) for v in schedule(times(1.0)[0])] == [0.0, 1.0]
    assert schedule.log_snr(1.0) == -torch.inf and schedule.time(-torch.inf) == 1
    alpha, sigma = schedule(998 / 999 + times(0, 0.25, 0.5, 0.75, 1) / 999)
    angle = torch.atan2(sigma, alpha)
    assert torch.allclose(angle.diff(), angle.diff()[0].expand(4), rtol=1e-9)
    assert schedule.drift(0.9999).isfinite()


def test_a_table_is_inverted_without_search(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Discrete(table())
    log_snr = schedule.log_snr(times(0.2, 0.7))
    monkeypatch.setattr(Discrete, "__call__", None)
    assert torch.allclose(schedule.time(log_snr), times(0.2, 0.7))


@settings(max_examples=30, deadline=None)
@given(
    drops=st.lists(st.floats(1e-3, 2), min_size=2, max_size=12),
    zero=st.booleans(),
    t=st.lists(TIMES, min_size=1, max_size=8),
)
def test_any_table_inverts(drops: list[float], zero: bool, t: list[float]) -> None:
    abar = (-times(*drops).cumsum(0)).exp()
    schedule = Discrete(torch.cat([abar, times(0)]) if zero else abar)
    assert (schedule.time(schedule.log_snr(times(*t))) - times(*t)).abs().max() < 1e-10


def test_cosine_and_rectified_reach_pure_noise() -> None:
    for schedule in (Cosine(), Rectified()):
        alpha, sigma = schedule(times(1.0))
        assert float(alpha) == 0.0 and float(sigma) == pytest.approx(1.0, abs=1e-15)
        assert schedule.time(-torch.inf) == 1 and schedule.time(torch.inf) == 0


def test_a_schedule_writes_one_method() -> None:
    schedule = Tangent()
    t = times(0.0, 0.2, 0.9)
    assert torch.allclose(schedule.time(schedule.log_snr(t)), t, atol=1e-12)
    assert torch.allclose(schedule.drift(t), -torch.ones(3).double())
    g2 = 4 * t * (0.1 + t**2) + 2 * (0.1 + t**2) ** 2
    assert torch.allclose(schedule.diffusion(t), g2.sqrt())
    assert schedule.describe() == {"name": "Tangent"}
    with pytest.raises(ValueError, match="not within"):
        schedule.time(100.0)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_level(dtype: torch.dtype, expected: torch.dtype) -> None:
    like = torch.zeros(3, 2, 4, 4, dtype=dtype)
    for t in (0.3, times(0.3, 0.3, 0.3), torch.tensor(0.3, dtype=torch.float64)):
        level = VP().level(t, like)
        assert level.t.dtype == torch.float64 and level.t.shape == (3,)
        assert level.alpha.shape == level.sigma.shape == (3, 1, 1, 1)
        assert level.alpha.dtype == level.sigma.dtype == expected
        alpha, sigma = VP()(times(0.3))
        assert torch.allclose(level.alpha, alpha.to(expected))
        assert torch.allclose(level.ratio.double(), sigma / alpha)
        assert torch.allclose(level.fraction.double(), sigma / (alpha + sigma))


def test_perturb_is_a_row_at_a_time() -> None:
    x_0, eps = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    level = Rectified().level(times(0.1, 0.2, 0.5, 1.0), x_0)
    x_t = level.perturb(x_0, eps)
    assert torch.allclose(x_t[1], 0.8 * x_0[1] + 0.2 * eps[1])
    assert torch.equal(x_t[3], eps[3])
    with pytest.raises(ValueError, match="do not fit"):
        level.perturb(x_0, eps[:1])
    with pytest.raises(ValueError, match="do not fit"):
        level.perturb(x_0[:1], eps[:1])


@pytest.mark.parametrize(
    "t", [-1e-9, 1.0001, float("nan"), times(0.1, 2.0), times(0.1, torch.nan)]
)
def test_bad_times(t: float | Tensor) -> None:
    with pytest.raises(ValueError, match="not in \\[0, 1\\]"):
        VP().level(t, torch.zeros(2, 3))


@pytest.mark.parametrize("t", [times(0.1, 0.2, 0.3), times(0.1), torch.full((2, 1), 0.1)])
def test_wrong_number_of_times(t: Tensor) -> None:
    with pytest.raises(ValueError, match="give one time or 2"):
        VP().level(t, torch.zeros(2, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: VP(beta_min=0.0),
        lambda: VP(beta_min=2.0, beta_max=1.0),
        lambda: SubVP(beta_min=-1.0),
        lambda: VE(sigma_min=1.0, sigma_max=1.0),
        lambda: VE(sigma_min=0.1, sigma_max=float("inf")),
        lambda: EDM(rho=0.0),
        lambda: EDM(sigma_min=90.0),
        lambda: Cosine(s=0.0),
        lambda: Discrete(torch.tensor([0.9])),
        lambda: Discrete(torch.tensor([[0.9, 0.5]])),
        lambda: Discrete(torch.tensor([0.5, 0.5])),
        lambda: Discrete(torch.tensor([1.1, 0.5])),
        lambda: Discrete(torch.tensor([0.9, -0.1])),
        lambda: Discrete(torch.tensor([0.9, float("nan")])),
    ],
)
def test_bad_schedules(make) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match="needs|not a list"):
        make()


def test_descriptions_and_equality() -> None:
    assert VP().describe() == {"name": "VP", "beta_min": 0.1, "beta_max": 20.0}
    assert VP() == VP(beta_max=20) != SubVP()
    described = Discrete(table()).describe()
    assert described["steps"] == 1000 and described["alphas_cumprod"][1] == table()[-1]
    assert isinstance(VP().level(0.5, torch.zeros(1, 1)), NoiseLevel)
