"""Each sampler against its own stationary law, on exact scores."""

import math

import pytest
import torch
from problems import slope
from torch import Tensor

from sdstoolkit.noise import VE, VP, Cosine, Discrete, Rectified
from sdstoolkit.prediction import Sample, V
from sdstoolkit.rng import generators
from sdstoolkit.samplers._walk import Draw
from sdstoolkit.samplers.annealed import NCSN, AnnealedLangevin, Fixed, NCSNv2, level_variance
from sdstoolkit.samplers.consistency import Consistency, Distilled
from sdstoolkit.samplers.ddim import DDIM, Ancestral, hop
from sdstoolkit.samplers.langevin import Langevin
from sdstoolkit.samplers.mala import MALA
from sdstoolkit.samplers.predictor_corrector import PredictorCorrector
from sdstoolkit.samplers.reverse_sde import ReverseSDE
from sdstoolkit.samplers.svgd import SVGD
from sdstoolkit.samplers.underdamped import Underdamped
from sdstoolkit.score import ScoreModel
from sdstoolkit.toy import Energy, Gaussian, Mixture, Negated

D = 256  # independent coordinates: one chain is 256 of them
NORMAL = Gaussian(torch.zeros(D), 1.0)
LINE = Gaussian([0.0], 1.0)
PAIR = Mixture([[-2.0, 0.0], [2.0, 1.0]], std=0.3, weights=[0.3, 0.7])


def variance(chain: object, n: int, skip: int, thin: int = 4) -> float:
    """The mean square over rows, coordinates, and every few states after the first ones."""
    states = [x for k, x in enumerate(chain.steps(n)) if k > skip and k % thin == 0]
    return float(torch.stack(states).square().mean())


def masses(x: Tensor) -> float:
    return float((x[:, 0] > 0).double().mean())


def test_ula_has_the_variance_of_its_own_law() -> None:
    """1 / (1 - h/2), 4/3 at h = 1/2; its bias falls with the first power of h."""
    steps, errors = (0.125, 0.25, 0.5), []
    for h in steps:
        chain = Langevin(NORMAL, step=h, steps=60)
        found = variance(chain, 48, 16)
        assert found == pytest.approx(1 / (1 - h / 2), rel=0.02)
        errors.append(found - 1)
    assert slope(list(steps), errors) == pytest.approx(1.16, abs=0.2)  # h/2 + h^2/4 + ...


def variances(h: float, width: float, times: tuple[int, ...]) -> list[float]:
    """Of the Metropolis chain on N(0, 1) with log q = -|x' - x - h s|^2 / width, on a grid."""
    x = torch.linspace(-22, 22, 700, dtype=torch.float64)
    start, end = x[:, None], x[None, :]
    move = torch.exp(-((end - start * (1 - h)) ** 2) / (4 * h)) / math.sqrt(4 * math.pi * h)
    back, there = (start - end * (1 - h)) ** 2 / width, (end - start * (1 - h)) ** 2 / width
    accept = torch.exp(((start**2 - end**2) / 2 - back + there).clamp(max=0))
    P = move * accept * (x[1] - x[0])
    P += torch.diag(1 - P.sum(1))
    law, found = torch.exp(-(x**2) / 2), []
    law = law / law.sum()
    for k in range(1, max(times) + 1):
        law = law @ P
        if k in times:
            found.append(float(law @ x**2))
    return found


def test_mala_is_exact_where_a_wrong_proposal_density_is_not() -> None:
    h = 0.5
    assert variances(h, 4 * h, (200,)) == pytest.approx([1], rel=1e-3)
    wrong = variances(h, 2 * h**2, (10, 400, 1200))
    assert wrong[0] < 14.8 < wrong[1] < wrong[2]  # outward steps are always taken
    for step in (h, 1.6 * h):  # and the library's chain is the first
        chain = MALA(LINE, step=step, steps=160)
        assert variance(chain, 1200, 20, 1) == pytest.approx(1, rel=0.025)
        assert chain.report["acceptance"] > 0.5


def test_underdamped_is_exact_on_a_gaussian_but_for_its_velocity() -> None:
    for h in (0.5, 1.2):
        chain = Underdamped(NORMAL, step=h, steps=60, friction=1.5)
        assert variance(chain, 32, 20) == pytest.approx(1, rel=0.02)
        assert chain.report["temperature"] == pytest.approx(1 - h**2 / 4, rel=0.05)


def test_a_step_that_is_too_large_is_reported_and_not_returned() -> None:
    for chain, message in (
        (Langevin(NORMAL, step=2.5, steps=20), "smaller step"),
        (Langevin(NORMAL, step=2.5, steps=2000), "not finite"),
        (Underdamped(NORMAL, step=2.3, steps=40), "smaller step"),
        (MALA(NORMAL, step=1.9, steps=40), "smaller step"),
        (SVGD(LINE, step=1e3, steps=400), "smaller step"),
    ):
        with pytest.raises(ValueError, match=message):
            chain.sample(4)


def test_what_cannot_be_normalised_is_not_sampled() -> None:
    for law in (Negated(LINE), Energy(lambda x: -x.square().sum(), [1])):
        for chain in (Langevin(law, step=0.1, steps=2), MALA(law, step=0.1, steps=2)):
            with pytest.raises(ValueError, match="no finite integral"):
                chain.sample(3)


def test_rows_do_not_depend_on_the_rows_beside_them() -> None:
    model = PAIR.under(VP())
    for chain in (
        Langevin(PAIR, step=0.01, steps=70),
        MALA(PAIR, step=0.01, steps=70),
        Underdamped(PAIR, step=0.05, steps=5),
        AnnealedLangevin(PAIR.under(VE(sigma_min=0.05, sigma_max=5.0)), levels=5, steps=3),
        PredictorCorrector(model, steps=5),
        Consistency(model, steps=5),
        ReverseSDE(model, steps=5),
        DDIM(model, steps=5, eta=0.5),
    ):
        five = chain.sample(5, seed=3)
        assert torch.allclose(chain.sample(2, seed=5), five[2:4], rtol=1e-4, atol=1e-5)
        assert torch.equal(chain.sample(2, seed=[6, 3]), chain.sample(2, seed=[6, 3]))
        assert len(list(chain.steps(2))) >= 6


def test_a_start_is_kept_in_its_dtype() -> None:
    start = torch.zeros(3, 2, dtype=torch.float64)
    states = list(Langevin(PAIR, step=0.01, steps=2).steps(3, start=start))
    assert torch.equal(states[0], start) and states[-1].dtype == torch.float64
    with pytest.raises(ValueError, match="start has shape"):
        Langevin(PAIR, step=0.01, steps=2).sample(4, start=start)


def test_langevin_at_a_noise_level_of_a_model() -> None:
    model, t = PAIR.under(VP()), 0.5
    alpha, sigma = model.schedule(torch.tensor(t, dtype=torch.float64))
    law = PAIR.noised(float(alpha), float(sigma))
    x = Langevin(model, step=0.02, steps=150, t=t).sample(400, seed=1)
    exact = law.sample(20_000)
    assert torch.allclose(x.mean(0), exact.mean(0), atol=0.2)
    with pytest.raises(ValueError, match="give t"):
        Langevin(model, step=0.1, steps=1).sample(2)
    with pytest.raises(ValueError, match="neither t"):
        Langevin(PAIR, step=0.1, steps=1, t=0.5).sample(2)


@pytest.mark.parametrize(
    ("top", "bottom", "levels", "steps", "epsilon"),
    [(50, 0.01, 232, 5, 6.18e-6), (90, 0.01, 500, 5, 3.34e-6), (348, 0.01, 2311, 3, 8.93e-7)],
)
def test_the_ncsnv2_rule_finds_the_published_steps(
    top: float, bottom: float, levels: int, steps: int, epsilon: float
) -> None:
    ladder = [top * (bottom / top) ** (k / (levels - 1)) for k in range(levels)]
    assert NCSNv2()(ladder, steps) * bottom**2 == pytest.approx(epsilon, rel=2e-3)


def test_the_level_of_2019_is_eleven_per_cent_hot() -> None:
    r = NCSN(epsilon=2e-5)([1.0, 0.01], 100)
    assert r == pytest.approx(0.2)
    assert level_variance(r, 1.67, 100) == pytest.approx(1.111, abs=1e-3)
    assert level_variance(r / 2, 1.67, 100) == pytest.approx(1.0526, abs=1e-3)  # as printed
    with pytest.raises(ValueError, match="smaller epsilon"):
        NCSN(epsilon=1e-3)([1.0, 0.01], 100)


def test_level_variance_is_what_the_chain_has() -> None:
    """Levels of pure noise: data at a point, seen at one ratio after the other."""
    point = Gaussian(torch.zeros(D), 1e-6).under(VE(sigma_min=0.1, sigma_max=2.0))
    chain = AnnealedLangevin(point, levels=[1.5, 1.0], steps=3)
    last = list(chain.steps(40))[2]  # of the start and one a level
    first = level_variance(chain.step, 1.0, 3)  # the first level starts at its own variance
    expected = level_variance(chain.step, 1.5 * first**0.5, 3)
    assert last.square().mean() == pytest.approx(expected, rel=0.03)


def test_a_step_without_the_root_of_two_is_too_cold() -> None:
    """x + sigma^2 s + sigma z tends to V / (2 - sigma^2 / V) on a level of variance V."""
    sigma, spread = 0.5, 1.0
    V = spread**2 + sigma**2
    x = torch.randn(20_000, dtype=torch.float64) * V**0.5
    for _ in range(40):
        x = x - sigma**2 * x / V + sigma * torch.randn_like(x)
    assert x.var() == pytest.approx(V / (2 - sigma**2 / V), rel=0.03)
    assert x.var() < 0.6 * V


@pytest.mark.parametrize(
    "make",
    [
        lambda: AnnealedLangevin(PAIR.under(VE(sigma_min=0.01, sigma_max=10.0))),
        lambda: AnnealedLangevin(PAIR.under(VP()), levels=60, steps=12),
        lambda: PredictorCorrector(PAIR.under(VP()), steps=100),
        lambda: PredictorCorrector(PAIR.under(VP()), steps=60, measured=True),
        lambda: PredictorCorrector(
            PAIR.under(VE(sigma_min=0.01, sigma_max=30.0)), steps=100, measured=True, wide=True
        ),
        lambda: ReverseSDE(PAIR.under(VP()), steps=200),
        lambda: Ancestral(PAIR.under(Cosine(), V()), steps=100),
        lambda: DDIM(PAIR.under(Rectified(), V()), steps=100),
        lambda: DDIM(PAIR.under(VP()), steps=100, eta=0.5),
    ],
    ids=["ald-ve", "ald-vp", "pc", "pc-measured", "pc-wide"]
    + ["sde", "ancestral", "ddim", "ddim-half"],
)
def test_both_modes_in_their_shares(make: object) -> None:
    n = 1000
    x = make().sample(n, seed=7)
    error = math.sqrt(0.3 * 0.7 / n)
    assert masses(x) == pytest.approx(0.7, abs=3 * error + 0.01)
    inside = x[x[:, 0] > 0] - torch.tensor([2.0, 1.0])
    assert inside.mean(0).abs().max() < 0.05
    assert inside.std(0).mean() == pytest.approx(0.3, rel=0.1)


class Student(ScoreModel):
    """The consistency function of N(mean, spread^2 I): a point's own place in that law, at t = 0.

    f(x, t) = mean + spread (x - alpha mean) / sqrt(alpha^2 spread^2 + sigma^2)
    """

    def __init__(self, schedule, mean: float, spread: float) -> None:
        super().__init__()
        self.schedule, self.parameterization, self.shape = schedule, Sample(), (16,)
        self.mean, self.spread = mean, spread

    def output(self, x_t, level, condition):
        width = (level.alpha**2 * self.spread**2 + level.sigma**2).sqrt()
        return self.mean + self.spread * (x_t - level.alpha * self.mean) / width


@pytest.mark.parametrize("schedule", (VE(sigma_min=0.01, sigma_max=10.0), VP(), Rectified()))
@pytest.mark.parametrize("steps", (1, 2, 5))
def test_a_consistency_function_draws_from_the_law_in_any_number_of_steps(schedule, steps) -> None:
    """And what is no consistency function, the posterior mean, does not."""
    mean, spread, n = 1.5, 0.8, 1000
    alpha, sigma = schedule(torch.tensor(1.0, dtype=torch.float64))
    start = torch.randn(n, 16, dtype=torch.float64)
    start = alpha * mean + (alpha**2 * spread**2 + sigma**2).sqrt() * start  # the law at t = 1
    chain = Consistency(Student(schedule, mean, spread), steps=steps)
    assert len(list(chain.steps(1))) == steps + 1 and len(chain.times) == steps
    x = chain.sample(n, start=start)
    error = 1 / math.sqrt(16 * n)
    assert x.mean() == pytest.approx(mean, abs=3 * spread * error)
    assert x.var() == pytest.approx(spread**2, rel=3 * math.sqrt(2) * error)
    blurred = Consistency(Gaussian([mean] * 16, spread).under(schedule, V()), steps=steps)
    assert blurred.sample(n, start=start).var() < 0.8 * spread**2


def test_the_times_of_a_latent_consistency_model() -> None:
    """Those of its own scheduler: 999, 759, 499, 259 of a table of 1000."""
    table = Discrete(torch.linspace(0.999, 0.01, 1000))
    times = Consistency(Student(table, 0, 1), steps=4, grid=Distilled()).times
    assert [round(999 * t, 9) for t in times] == [999, 759, 499, 259]
    everything = Distilled()(table, 50, 1.0, 0.0)[:-1]
    assert (999 * everything).round().tolist() == list(range(999, 0, -20))
    with pytest.raises(ValueError, match="at most 50 steps"):
        Distilled()(table, 51, 1.0, 0.0)


@pytest.mark.parametrize("schedule", (VE(sigma_min=0.01, sigma_max=10.0), VP()))
def test_a_wide_step_draws_with_the_variance_of_the_way_up(schedule) -> None:
    """W = sigma_t^2 - (alpha_t sigma_s / alpha_s)^2, under VP beta, about the same mean."""
    (a_t, b_t), (a_s, b_s) = (schedule(torch.tensor(t, dtype=torch.float64)) for t in (0.6, 0.5))
    W = b_t**2 - (a_t * b_s / a_s) ** 2
    beta = 1 - (a_t / a_s) ** 2 if isinstance(schedule, VP) else b_t**2 - b_s**2
    assert W == pytest.approx(float(beta), rel=1e-12)
    seen = Student(schedule, 0.3, 1.0)(torch.zeros(2, 16, dtype=torch.float64), 0.6, None)
    mean = a_s * seen.x_0 + (b_s**2 - b_s**2 / b_t**2 * W).sqrt() * seen.eps

    def drawn(wide: bool) -> Tensor:
        draw = Draw(generators((0, 1), "sampler"), (16,), torch.float64, torch.device("cpu"))
        return hop(seen, schedule, 0.6, 0.5, draw, 1.0, wide=wide) - mean

    z = Draw(generators((0, 1), "sampler"), (16,), torch.float64, torch.device("cpu")).normal()
    assert torch.allclose(drawn(True), W.sqrt() * z, rtol=1e-9)
    assert torch.allclose(drawn(False), b_s / b_t * W.sqrt() * z, rtol=1e-9)


def euler_maruyama_variance(sampler: ReverseSDE, V: float) -> float:
    """What the steps make of a Gaussian, by hand: each is linear, x <- m x + noise."""
    schedule = sampler.model.schedule
    times = torch.tensor(sampler.times, dtype=torch.float64)
    alpha, sigma = schedule(times)
    total = alpha**2 * V + sigma**2  # the exact variances on the way
    found = sigma[0] ** 2
    for k, (f, g) in enumerate(zip(sampler.drift, sampler.diffusion, strict=True)):
        h = times[k] - times[k + 1]
        found = (1 - h * (f + g**2 / total[k])) ** 2 * found + h * g**2
    return float(found * (alpha[-1] * V / total[-1]) ** 2)  # the posterior mean


def test_the_bias_of_euler_maruyama_falls_with_the_step() -> None:
    model = Gaussian(torch.zeros(D), 0.5).under(VP())
    x = ReverseSDE(model, steps=20).sample(48, seed=1)
    expected = euler_maruyama_variance(ReverseSDE(model, steps=20), 0.25)
    assert x.square().mean() == pytest.approx(expected, rel=0.03)
    assert abs(expected / 0.25 - 1) > 0.05  # which is not the law's
    counts = (200, 400, 800)
    best = euler_maruyama_variance(ReverseSDE(model, steps=6400), 0.25)
    errors = [
        abs(euler_maruyama_variance(ReverseSDE(model, steps=c), 0.25) - best) for c in counts
    ]
    assert slope([1 / c for c in counts], errors) == pytest.approx(1, abs=0.15)


def test_ddim_is_deterministic_at_zero_and_pure_noise_is_a_state() -> None:
    model = Gaussian([0.5, -0.5], 0.7).under(Rectified(), V())
    start = torch.randn(4, 2, dtype=torch.float64)
    ends = [DDIM(model, steps=400).sample(4, seed=s, start=start) for s in (0, 9)]
    assert torch.equal(*ends)
    expected = 0.7 * start + torch.tensor([0.5, -0.5])  # the flow's map between Gaussians
    assert torch.allclose(ends[0], expected, atol=0.02)
    final = Ancestral(model, steps=2).sample(3)
    assert final.isfinite().all()


def test_svgd_spreads_particles_over_the_law() -> None:
    chain = SVGD(Gaussian([1.0, -1.0], [1.0, 0.5]), step=0.5, steps=250)
    x = chain.sample(60, seed=2)
    assert torch.allclose(x.mean(0), torch.tensor([1.0, -1.0]), atol=0.1)
    assert torch.allclose(x.std(0), torch.tensor([1.0, 0.5]), rtol=0.25)
    assert chain.report["speed"] < 0.1
    with pytest.raises(ValueError, match="n = 2"):
        chain.sample(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Langevin(LINE, step=-0.1, steps=3), "step = -0.1"),
        (lambda: MALA(LINE, step=0.1, steps=0), "steps = 0"),
        (lambda: Underdamped(LINE, step=0.1, steps=1, friction=0.0), "friction = 0"),
        (lambda: SVGD(LINE, step=0.1, steps=1, bandwidth=-1.0), "bandwidth = -1"),
        (lambda: AnnealedLangevin(LINE.under(VP()), levels=1), "levels = 1"),
        (lambda: AnnealedLangevin(LINE.under(VP()), levels=[0.1, 0.5]), "do not descend"),
        (lambda: AnnealedLangevin(LINE.under(VP()), levels=[0.5, 0.5]), "do not descend"),
        (lambda: AnnealedLangevin(LINE.under(VP()), levels=[0.5, -1.0]), "do not descend"),
        (lambda: AnnealedLangevin(LINE.under(VP()), levels=[1e9, 1.0]), "not within"),
        (lambda: AnnealedLangevin(LINE.under(Rectified(), V()), start=1.0), "no place"),
        (lambda: DDIM(LINE.under(VP()), eta=1.5), "eta = 1.5"),
        (lambda: DDIM(LINE.under(VP()), start=0.0, stop=1.0), "goes down"),
        (lambda: ReverseSDE(LINE.under(Rectified(), V())), "not finite at t = 1"),
        (lambda: PredictorCorrector(LINE.under(VP()), snr=1.0), "unstable"),
        (lambda: Consistency(LINE.under(VP()), steps=0), "steps = 0"),
        (lambda: Consistency(LINE.under(VP()), start=0.2, stop=0.2), "not after stop"),
        (lambda: Consistency(LINE.under(VP()), grid=Distilled()), "needs a table"),
        (lambda: Distilled(entries=0), "needs entries >= 1"),
        (lambda: PredictorCorrector(LINE.under(VP()), corrections=-1), "corrections = -1"),
    ],
)
def test_bad_samplers(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_weights_of_modes_lag_behind_short_steps() -> None:
    """With r T of a few a level they arrive; NCSNv2's r, the least for the noise, comes short."""
    exact, n = PAIR.under(VE(sigma_min=0.01, sigma_max=10.0)), 4000
    error = math.sqrt(0.3 * 0.7 / n)
    chains = [
        AnnealedLangevin(exact, levels=20, steps=steps, rule=rule)
        for steps, rule in ((20, NCSNv2()), (60, Fixed(0.2)))
    ]
    short, long = (masses(chain.sample(n, seed=3)) for chain in chains)
    assert chains[1].step == 0.2
    assert long == pytest.approx(0.7, abs=3 * error)
    assert short < 0.7 - 3 * error
    with pytest.raises(ValueError, match="relative step is 2"):
        AnnealedLangevin(exact, rule=Fixed(2.0))
