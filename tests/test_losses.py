"""The losses beside SDS, each by the identity that proves it; all of it in float64."""

import copy
import math
import re

import pytest
import torch
from problems_distillation import (
    MEANS,
    STDS,
    STEPS,
    WEIGHTS,
    Gaussian,
    alpha_sigma,
    kl_gradients,
    normal_nodes,
    posterior_coefficients,
    released_identity_weight,
    rests,
    smoothed_score,
    stable_diffusion_table,
    tikhonov,
)
from torch import nn

from sdstoolkit import _plugins
from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.distill import (
    ASD,
    CDS,
    CFD,
    CSD,
    DDS,
    IDS,
    ISM,
    NFSD,
    PDS,
    RFDS,
    SDI,
    SDS,
    SJC,
    VSD,
    Bridge,
    Clip,
    Constant,
    MeanShift,
    NoiseRatio,
    Normalise,
    REDDiff,
    Repulsive,
    RewardSDS,
    Stein,
    UnitNorm,
    cards,
)
from sdstoolkit.distill.card import table
from sdstoolkit.distill.repulsive import repulsion
from sdstoolkit.distill.reward import Best, Extremes, Softmax
from sdstoolkit.distill.rewards import CLIPSimilarity, TargetColour
from sdstoolkit.grids import DreamTime, InverseCDF, LinearAnneal, UniformLaw
from sdstoolkit.noise import VP, Discrete, Rectified
from sdstoolkit.optimization import optimize
from sdstoolkit.prediction import Epsilon, Flow
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal
from sdstoolkit.samplers.ddim import DDIM
from sdstoolkit.score import ScoreModel
from sdstoolkit.toy import Mixture

F64 = {"dtype": torch.float64}
LATER = ("sds",)  # has a file of tests of its own


def about(*m, s=0.5):
    m = torch.tensor(m, **F64)[:, None]
    return Condition({"m": m, "s": torch.full_like(m, s)})


def always(t):
    return lambda u, progress: torch.full_like(u, t)


def points(n=3, seed=7, shape=(1, 2, 2)):
    return normal(generators(range(seed, seed + n), "points"), shape, **F64)


def noises(n=3):
    return points(n, seed=100)


def gradient(loss, x_0, **options):
    x_0 = x_0.clone().requires_grad_()
    loss(x_0, **options).backward()
    return x_0.grad


def residual(loss, x_0, t, eps):
    with torch.no_grad():
        level = loss.model.level(t, x_0)
        return loss.residual(x_0, level.perturb(x_0, eps), level, eps)


def close(found, truth, tol=1e-11):
    torch.testing.assert_close(found, truth, rtol=tol, atol=tol)


def mixture(schedule=None, shape=(1,)):
    law = Mixture(means=[[m] for m in MEANS], std=list(STDS), weights=list(WEIGHTS), shape=shape)
    return law.under(schedule or Discrete(stable_diffusion_table()))


def weights(*w):
    return Condition({"weights": torch.tensor([w], **F64)})


class Net(ScoreModel):
    """A small random network with self-attention by name, and a counter of its rows."""

    def __init__(self, seed=0, shape=(1, 2, 2)):
        super().__init__()
        self.schedule, self.parameterization, self.shape = VP(), Epsilon(), shape
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.attn1 = nn.Linear(4, 8, **F64)
            self.out = nn.Linear(8, 4, **F64)
        self.requires_grad_(False)
        self.count = Count()

    def output(self, x_t, level, condition):
        self.count.see(len(x_t))
        m = condition["m"].to(x_t.dtype) if condition else 0.0
        patches = (x_t.flatten(1) + m)[:, None].expand(-1, 3, -1)
        hidden = self.attn1(patches).mean(1)
        return self.out(torch.tanh(hidden)).reshape(x_t.shape)


class Count:
    """Rows asked for, all and with a graph; a copy is the same counter."""

    def __init__(self):
        self.rows = self.graphs = 0

    def see(self, rows):
        self.rows += rows
        self.graphs += rows * torch.is_grad_enabled()

    def __deepcopy__(self, memo):
        return self


# Linear combinations of predictions


def test_sjc_with_less_variance_is_sds_with_a_constant_weight_to_the_bit():
    options = {"negative": about(-1.0), "scale": 7.5}
    sjc = SJC(Gaussian(), about(0.3), **options)
    sds = SDS(Gaussian(), about(0.3), **options, weight=Constant(), t_law=sjc.t_law)
    assert torch.equal(gradient(sjc, points()), gradient(sds, points()))
    plain = SJC(Gaussian(), about(0.3), **options, reduce_variance=False)
    eps, weight = normal_nodes(4)
    rows = torch.full((4, 1, 1, 1), 0.7, **F64)
    means = [
        (residual(loss, rows, 0.4, eps.reshape(rows.shape)).flatten() * weight).sum()
        for loss in (sjc, plain)
    ]
    close(means[0], means[1])


def test_csd_is_the_limit_of_sds_over_scale_and_has_no_noise():
    model = Gaussian()
    csd = CSD(model, about(1.0), null=about(0.0))
    sds = SDS(model, about(1.0), negative=about(0.0), scale=1e9)
    close(
        residual(csd, points(), 0.4, noises()), residual(sds, points(), 0.4, noises()) / 1e9, 1e-8
    )
    # equal spreads: a constant drift, whatever the noise
    alpha, sigma = model.schedule(torch.tensor(0.4, **F64))
    drift = -sigma * alpha / (alpha**2 * 0.25 + sigma**2)
    close(residual(csd, points(), 0.4, noises()), drift.expand(3, 1, 2, 2))


def test_csd_rests_where_the_spreads_say():
    csd = CSD(Gaussian(), about(1.0, s=0.3), null=about(0.0, s=1.0))
    alpha, sigma = alpha_sigma(400)
    v_c, v_0 = (alpha**2 * s**2 + sigma**2 for s in (0.3, 1.0))
    truth = float(1 / (1 - v_c / v_0))

    def mean(x):
        x = x.reshape(-1, 1, 1, 1)
        return residual(csd, x, 400 / (STEPS - 1), torch.zeros_like(x)).flatten()

    (found,) = rests(mean, 0.0, 5.0, 5)
    assert found == pytest.approx(truth, abs=1e-9)


def test_csd_leaves_a_negative_prompt_as_the_coefficients_say():
    model, kappa = Gaussian(), 0.3
    loss = CSD(model, about(1.0), negative=about(-2.0), null=about(0.0), away=lambda p: kappa)
    level = model.level(0.4, points())
    x_t = level.perturb(points(), noises())
    c, null, n = (model(x_t, level, about(m)).eps for m in (1.0, 0.0, -2.0))
    close(residual(loss, points(), 0.4, noises()), c + (kappa - 1) * null - kappa * n)
    # a number is what it rises to: 0 at the beginning, and at 1 the null prompt is withdrawn
    loss.away = 1.0
    for progress, truth in ((0.0, c - null), (0.25, c - 0.75 * null - 0.25 * n), (1.0, c - n)):
        loss.progress = progress
        close(residual(loss, points(), 0.4, noises()), truth)


def test_csd_holds_its_noise_as_long_as_it_says():
    steps, hold, until = 60, 6, 0.5
    options = {"null": about(0.0), "hold": hold, "until": until}
    loss, other = (CSD(Gaussian(), about(1.0), **options) for _ in range(2))
    rng, drawn = generators(range(3), "noise"), []
    for step in range(steps):
        if step == 13:  # in the middle of a noise that is held
            other.restore({name: v.clone() for name, v in loss.state().items()})
            loss = other
        loss.progress = step / steps
        drawn.append(loss.noise(points(), rng))
    began = [k for k in range(steps) if k == 0 or not torch.equal(drawn[k], drawn[k - 1])]
    truth, step = [], 0
    while step < steps:
        truth.append(step)
        step += max(1, round(hold * (1 - step / steps / until)))
    assert began == truth and began[1] == hold and 13 not in began
    # what is drawn anew is what the generators say next
    rng = generators(range(3), "noise")
    fresh = [normal(rng, points().shape[1:], dtype=torch.float64) for _ in began]
    assert all(torch.equal(drawn[k], eps) for k, eps in zip(began, fresh, strict=True))


@pytest.mark.parametrize("options", [{"hold": 1}, {"until": 0.0}])
def test_csd_without_a_hold_has_new_noise_in_every_step(options):
    loss = CSD(Gaussian(), about(1.0), null=about(0.0), **options)
    rng = generators(range(3), "noise")
    drawn = torch.stack([loss.noise(points(), rng) for _ in range(8)])
    assert len(drawn.flatten(1).unique(dim=0)) == 8


def test_nfsd_is_sds_in_the_mean_at_low_noise_and_csd_at_high_noise():
    model, options = Gaussian(), {"null": about(0.0), "scale": 7.5}
    nfsd = NFSD(model, about(1.0), negative=about(-3.0), **options)
    sds = SDS(model, about(1.0), negative=about(0.0), scale=7.5)
    eps, weight = normal_nodes(4)
    eps, rows = eps.reshape(-1, 1, 1, 1), torch.full((4, 1, 1, 1), 0.7, **F64)
    mean = [(residual(x, rows, 0.1, eps).flatten() * weight).sum() for x in (nfsd, sds)]
    close(mean[0], mean[1])
    same = NFSD(model, about(1.0), negative=about(0.0), **options)
    csd = CSD(model, about(1.0), null=about(0.0), scale=7.5)
    close(*(residual(loss, points(), 0.4, noises()) for loss in (same, csd)))
    # and rows on both sides of the switch at once
    t = torch.tensor([0.1, 0.4, 0.1], **F64)
    mixed = residual(nfsd, points(), t, noises())
    for i in range(3):
        close(
            mixed[i : i + 1],
            residual(nfsd, points()[i : i + 1], t[i : i + 1], noises()[i : i + 1]),
        )


def test_bridge_vanishes_between_equal_ends_and_is_csd_from_nothing():
    model = Gaussian()
    options = {"negative": about(0.0), "scale": 7.5, "target": about(1.0), "switch": 0.5}
    same = Bridge(model, about(1.0), **options, source=about(1.0))
    first = residual(same, points(), 0.4, noises())
    sds = SDS(model, about(1.0), negative=about(0.0), scale=7.5)
    close(first, residual(sds, points(), 0.4, noises()))
    same.progress = 0.5
    assert not residual(same, points(), 0.4, noises()).any()
    from_nothing = Bridge(model, about(1.0), **options, source=about(0.0), gain=3.0)
    from_nothing.progress = 0.9
    csd = CSD(model, about(1.0), null=about(0.0), scale=3.0)
    close(*(residual(loss, points(), 0.4, noises()) for loss in (from_nothing, csd)))


def test_bridge_adds_words_to_a_prompt():
    seen = []

    def text(prompts):
        seen.extend(prompts)
        return about(*(float(len(p)) for p in prompts))

    Bridge(Prior(Gaussian(), Codec(channels=1), text), "a heart", scale=30.0)
    assert "a heart, sharp, high quality" in seen
    assert "a heart, oversaturated, blurry, noisy, low quality" in seen


@pytest.mark.parametrize("schedule", [Rectified(), VP()])
def test_rfds_is_sds_over_one_minus_t_pathwise(schedule):
    model = Gaussian(schedule, Flow())
    options = {"negative": about(-1.0), "scale": 7.5}
    t = torch.tensor([0.1, 0.6, 0.9], **F64)
    rfds = residual(RFDS(model, about(0.3), **options), points(), t, noises())
    sds = residual(SDS(model, about(0.3), **options), points(), t, noises())
    alpha, sigma = (v.reshape(-1, 1, 1, 1) for v in schedule(t))
    close(alpha / (alpha + sigma) * rfds, sds)


def test_rfds_on_a_gaussian_and_its_refined_noise_on_a_point():
    model = Gaussian(Rectified(), Flow())
    t, m, s, x = 0.6, 0.3, 0.5, 0.9
    loss, rows = RFDS(model, about(m, s=s)), torch.full((1, 1, 1, 1), x, **F64)
    mean = residual(loss, rows, t, torch.zeros_like(rows))  # linear in eps
    close(mean, torch.full_like(rows, t * (x - m) / ((1 - t) ** 2 * s**2 + t**2)))
    # a point: the noise moves by (1 - t)(x_0 - m) / t, and then the residual is none
    point = Condition({"m": torch.full((1, 1), m, **F64), "s": torch.zeros(1, 1, **F64)})
    level = model.level(t, points())
    eps = model(level.perturb(points(), noises()), level, point).eps
    close(eps - noises(), (1 - t) * (points() - m) / t)
    refined = residual(RFDS(model, point, refine=1), points(), t, noises())
    close(refined, residual(RFDS(model, point), points(), t, eps))


def test_asd_without_delay_is_vsd_at_its_start_and_scaled_csd():
    model, scale = Net(), 7.5
    asd = ASD(model, about(1.0), negative=about(0.0), scale=scale, eta=0.0)
    vsd = VSD(model, about(1.0), negative=about(0.0), scale=scale, rank=2)
    csd = CSD(model, about(1.0), null=about(0.0), scale=scale - 1)
    truth = residual(csd, points(), 0.4, noises())
    close(residual(asd, points(), 0.4, noises()), truth)
    close(residual(vsd, points(), 0.4, noises()), truth)


@pytest.mark.parametrize("index", [100, 400, 700])
def test_asd_attracts_where_there_is_more_noise_than_spread(index):
    m, s, x = 0.3, 0.5, 1.0
    same = about(m, s=s)  # a null prompt that says the same leaves no guidance
    loss = ASD(Gaussian(), same, negative=same, scale=2.0)
    rows = torch.full((1, 1, 1, 1), x, **F64)
    t = index / (STEPS - 1)
    found = float(residual(loss, rows, t, torch.zeros_like(rows)))

    def k(t):
        alpha, sigma = loss.model.schedule(torch.tensor(t, **F64))
        r = sigma / alpha
        return r / (s**2 + r**2)

    difference = float(k(t) - k(t + 0.1 * (t - 0.02)))
    assert found == pytest.approx(difference * (x - m), abs=1e-12)
    assert difference == pytest.approx({100: -0.016, 400: 0.062, 700: 0.070}[index], abs=2e-3)


# Particles


def test_vsd_is_zero_pathwise_where_the_particles_have_the_prior_s_law():
    law = Gaussian()
    loss = VSD(law, about(0.3), fake=Gaussian())
    assert not gradient(loss, points()).any()


def test_vsd_of_one_particle_with_its_exact_network_is_sds():
    x_0 = points(1)

    class Knows(Gaussian):
        def output(self, x_t, level, condition):
            return (x_t - level.alpha * x_0) / level.sigma

    options = {"negative": about(-1.0), "scale": 7.5, "t_law": UniformLaw()}
    vsd = VSD(Gaussian(), about(0.3), fake=Knows(), **options)
    close(gradient(vsd, x_0), gradient(SDS(Gaussian(), about(0.3), **options), x_0))
    # and with a noise that it keeps, consistent flow distillation
    options |= {"t_law": LinearAnneal(), "weight": NoiseRatio()}
    cfd = CFD(Gaussian(), about(0.3), **options)
    kept = VSD(Gaussian(), about(0.3), fake=Knows(), **options)
    new = VSD(Gaussian(), about(0.3), fake=Knows(), hold=1, **options)
    for progress in (0.0, 0.3, 0.6, 0.9):
        g, truth, fresh = (gradient(loss, x_0, progress=progress) for loss in (kept, cfd, new))
        close(g, truth)
        assert progress == 0 or not torch.allclose(fresh, truth, rtol=1e-3)


@pytest.mark.parametrize("index", [100, 400, 800])
def test_vsd_follows_the_divergence_of_whole_laws(index):
    mu, tau, m, s = 0.8, 0.2, 0.3, 0.5
    fake = Gaussian()
    fake.output = lambda x, level, c: Gaussian.output(
        fake, x, level, about(mu, s=tau).expand(len(x))
    )
    loss = VSD(Gaussian(), about(m, s=s), fake=fake)
    u, weight = normal_nodes(4)
    x_0 = (mu + tau * u).reshape(-1, 1, 1, 1)
    g = residual(loss, x_0, index / (STEPS - 1), torch.zeros_like(x_0)).flatten()
    for found, truth in zip(
        ((g * weight).sum(), (g * u * weight).sum()),
        kl_gradients(mu, tau, m, s, *alpha_sigma(index)),
        strict=True,
    ):
        close(found, truth)


def test_vsd_fits_its_network_between_the_steps_and_leaves_the_prior_s():
    model = Net()
    before = copy.deepcopy(model.state_dict())
    loss = VSD(model, about(1.0), negative=about(0.0), scale=7.5, rank=2, lr=0.02)
    level, x_t = model.level(0.5, points()), points()
    told = model(x_t, level, about(1.0)).eps
    loss(points())
    assert torch.equal(loss.fake(x_t, level, about(1.0)).eps, told)  # a call alone trains nothing
    error = []
    for _ in range(60):
        loss.fit(points())
        eps = noises()
        with torch.no_grad():
            seen = loss.fake(level.perturb(points(), eps), level, about(1.0)).eps
        error.append(float((seen - eps).square().mean()))
    assert error[-1] < 0.8 * error[0]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(x_t, level, about(1.0)).eps, told)
    assert len(model.state_dict()) == len(before)


def test_optimize_steps_the_fit():
    calls = []

    class Fitted(SDS):
        def fit(self, x_0, *, progress=0.0, rng=None):
            calls.append((progress, len(x_0), x_0.requires_grad))

    prior = Prior(Gaussian(shape=(1, 4, 4)), Codec(channels=1))
    from sdstoolkit.canvas import Latents

    list(optimize(Latents(prior, n=2), Fitted(prior, about(1.0)), steps=4))
    assert calls == [(k / 4, 2, False) for k in range(4)]


def test_repulsion_is_symmetric_and_pushes_apart():
    angle = torch.arange(5, **F64) * 2 * math.pi / 5
    f = torch.stack([angle.cos(), angle.sin()], 1)  # the widths are all the same
    push = repulsion(f)
    close(push.sum(0), torch.zeros(2, **F64))
    assert ((push * f).sum(1) > 0).all()
    h = (f[0] - f[[1, 2, 3, 4]]).norm(dim=1).median() ** 2 / math.log(4)
    k = (-(f[0] - f).square().sum(1) / h).exp()
    close(push[0], ((2 * k / h)[:, None] * (f[0] - f)).sum(0) / k.sum())
    assert not repulsion(torch.ones(4, 2, **F64)).any()


def test_repulsive_without_strength_is_sds_and_with_it_moves_features_apart():
    options = {"t_law": UniformLaw(), "weight": NoiseRatio()}
    alone = Repulsive(Gaussian(), about(0.3), gamma=0.0, **options)
    sds = SDS(Gaussian(), about(0.3), **options)
    close(gradient(alone, points(4)), gradient(sds, points(4)))
    whole = Repulsive(Gaussian(), about(0.3), gamma=2.0, **options)
    own = Repulsive(Gaussian(), about(0.3), gamma=2.0, features=lambda x: x.flatten(1), **options)
    close(gradient(whole, points(4)), gradient(own, points(4)))
    half = Repulsive(
        Gaussian(), about(0.3), gamma=2.0, features=lambda x: 3 * x[:, :, 0].flatten(1), **options
    )
    rng = [generators(range(4), "noise") for _ in range(2)]
    push = gradient(sds, points(4), rng=rng[0]) - gradient(half, points(4), rng=rng[1])
    assert push[:, :, 0].any() and not push[:, :, 1].any()
    f, moved = points(4)[:, :, 0].flatten(1), (points(4) + 1e-3 * push)[:, :, 0].flatten(1)
    assert torch.pdist(moved).sum() > torch.pdist(f).sum()


# Trajectories


def test_sdi_that_remembers_and_cfd_by_sgd_are_ddim():
    """On a mixture with guidance: the same numbers as the sampler's, to rounding."""
    model, grid = mixture(), torch.linspace(1, 0.1, 13, **F64)
    told, untold, scale = weights(0.1, 0.9), weights(0.8, 0.2), 3.0
    eps = points(4, shape=(1,))

    class Guided(ScoreModel):
        schedule, parameterization, shape = model.schedule, model.parameterization, model.shape

        def output(self, x_t, level, condition):
            return model.mix(x_t, level, (told, untold), (scale, 1 - scale))

    sampler = DDIM(Guided(), steps=12, start=1.0, stop=0.1)
    sampler.times = grid.tolist()
    *path, clean = sampler.steps(4, start=model.schedule(grid[:1])[1] * eps)

    law = LinearAnneal(t_min=0.1, t_max=1.0)
    options = {"negative": untold, "scale": scale, "t_law": law}
    sdi = SDI(model, told, remember=True, refreshes=None, **options)
    own = SDI(model, told, refreshes=None, **options)  # it sees by itself that x arrived
    cfd = CFD(model, told, **options)
    rng = generators(range(4), "noise")
    sdi._noise.keep(rng, eps)
    own._noise.keep(rng, eps)
    cfd._noise.keep(rng, eps)
    x, y, ratio = torch.zeros(4, 1, **F64), torch.zeros(4, 1, **F64), None
    for k, t in enumerate(grid):
        progress = k / 12
        alpha, sigma = model.schedule(t)
        close(alpha * y + sigma * eps, path[k], 1e-12)  # before its step
        kappa = sdi._noise.recall(rng, x)
        close(alpha * x + sigma * kappa, path[k], 1e-12)
        there = x - gradient(own, x, progress=progress, rng=rng)
        x = x - gradient(sdi, x, progress=progress, rng=rng)  # all the way to x_0_hat
        close(there, x, 1e-12)
        g = gradient(cfd, y, progress=progress, rng=rng)
        r = model.schedule(grid[min(k + 1, 12)])
        y = y - (sigma / alpha - r[1] / r[0]) * g
        ratio = sigma / alpha
    close(x, clean, 1e-12)
    close(y - ratio * g, clean, 1e-12)


def test_cfd_keeps_its_noise_and_renews_a_share():
    loss = CFD(Gaussian(), about(0.3))
    rng = generators(range(3), "noise")
    seen = []
    loss.residual = lambda x_0, x_t, level, eps: seen.append(eps) or eps
    for _ in range(2):
        loss(points(), rng=rng)
    assert torch.equal(seen[0], seen[1])
    loss(points(), rng=generators(range(3), "noise"))  # another run begins anew
    assert torch.equal(seen[2], seen[0])
    loss(points(), rng=generators(range(1, 4), "noise"))
    assert not torch.equal(seen[3], seen[0])
    mixed = CFD(Gaussian(), about(0.3), gamma=0.3)
    mixed.residual = loss.residual
    wide = torch.zeros(1, 1, 100, 100, **F64)
    for _ in range(2):
        mixed(wide, rng=rng[:1])
    share = float((seen[-1] * seen[-2]).mean())
    assert share == pytest.approx(0.7**0.5, abs=4 / 100)
    assert float(seen[-1].var()) == pytest.approx(1, abs=4 * 2**0.5 / 100)


def test_sdi_finds_the_noise_of_its_own_path():
    """With a fine stride and no guidance, inverting what DDIM made gives the noise back."""
    model = mixture()
    low, high = 0.001, 0.6
    eps = points(4, shape=(1,))
    schedule = model.schedule
    sampler = DDIM(model, steps=150, start=high, stop=low)
    x_T = schedule(torch.tensor(high, **F64))[1] * eps
    *path, _ = sampler.steps(4, start=x_T)
    x_0 = path[-1] / schedule(torch.tensor(low, **F64))[0]
    loss = SDI(model, eta=0.0, stride=0.008)
    level = model.level(high, x_0)
    kappa = loss._inverted(x_0, level, eps)
    x_t = level.perturb(x_0, kappa)
    assert float((x_t - x_T).abs().max()) < 0.06
    halved = SDI(model, eta=0.0, stride=0.004)._inverted(x_0, level, eps)
    assert (level.perturb(x_0, halved) - x_T).abs().max() < (x_t - x_T).abs().max()


def test_sdi_keeps_a_target_for_a_part_of_the_run():
    model = Gaussian()
    loss = SDI(model, about(0.3), refreshes=2)
    rng = generators(range(3), "noise")
    calls, targets = [], []
    for progress in (0.0, 0.2, 0.4, 0.6, 0.8):
        model.rows.clear()
        g = gradient(loss, points(), progress=progress, rng=rng)
        calls.append(bool(model.rows))
        targets.append(points() - g)  # the pull goes to the target
    assert calls == [True, False, False, True, False]
    for k in (1, 2, 4):
        close(targets[k], targets[k - 1])


def test_sdi_inverts_the_rows_that_did_not_arrive():
    """Of three rows the second is sent elsewhere; the others are what they are without it."""
    model = Gaussian()
    law = LinearAnneal(t_min=0.1, t_max=0.9)

    def walk(rows, astray):
        loss = SDI(model, about(0.3), refreshes=None, t_law=law)
        x, rng = points()[rows], generators(rows, "noise")
        for k in range(3):
            model.rows.clear()
            x = x - gradient(loss, x, progress=k / 3, rng=rng)
            if k == 1 and astray is not None:
                x[astray] += 0.5
        return x, sum(model.rows)

    together, several = walk([0, 1, 2], 1)
    alone, one = walk([0, 2], None)
    assert one == 2 and several > 3  # one evaluation a row where all arrived
    close(together[[0, 2]], alone, 1e-12)
    close(together[[1]], walk([1], 0)[0], 1e-12)
    assert not torch.allclose(together[1], walk([1], None)[0][0], atol=1e-3)


def test_sdi_row_by_row_is_sdi_in_a_batch():
    loss = SDI(Gaussian(), about(0.3), refreshes=None, t_law=UniformLaw(t_min=0.05, t_max=0.95))
    together = gradient(loss, points(4), rng=generators(range(4), "noise"))
    for i in range(4):
        alone = gradient(loss, points(4)[i : i + 1], rng=generators([i], "noise"))
        close(alone, together[i : i + 1], 1e-9)


def test_ism_s_bracket_halves_with_its_interval():
    model, same = mixture(), weights(*WEIGHTS)
    x_0 = torch.tensor([[-1.0], [-0.3], [0.2], [0.7]], **F64)

    def bracket(interval):
        loss = ISM(model, same, negative=same, interval=interval, stride=0.05)
        return float(residual(loss, x_0, 0.4, x_0 * 0).square().mean().sqrt())

    sizes = [bracket(k / 1000) for k in (100, 50, 25, 12.5, 6.25)]
    ratios = [a / b for a, b in zip(sizes, sizes[1:], strict=False)]
    assert ratios == pytest.approx([2] * 4, rel=0.12)
    assert ratios[-1] == pytest.approx(2, rel=0.02)


def test_ism_is_guidance_at_a_place_on_the_flow_and_its_bracket():
    model = mixture()
    told, untold = weights(0.1, 0.9), weights(0.8, 0.2)
    x_0 = torch.tensor([[-1.0], [0.2]], **F64)
    bracket = residual(ISM(model, untold, negative=untold, interval=0.05), x_0, 0.4, x_0 * 0)
    full = residual(ISM(model, told, negative=untold, scale=7.5, interval=0.05), x_0, 0.4, x_0 * 0)
    one = residual(ISM(model, told, negative=untold, scale=1.0, interval=0.05), x_0, 0.4, x_0 * 0)
    close(full - bracket, 7.5 * (one - bracket))
    # eps_hat is constant along the flow of a point, whatever the steps
    point = Condition({"m": torch.full((1, 1), 0.3, **F64), "s": torch.zeros(1, 1, **F64)})
    delta = ISM(Gaussian(), point, negative=point, interval=0.1)
    assert residual(delta, points(), 0.4, noises()).abs().max() < 1e-9


def test_mean_shift_ascends_the_smoothed_density():
    loss = MeanShift(mixture())
    width = 0.15
    t = float(loss.model.schedule.time(-2 * math.log(width)))
    x = torch.linspace(-1.5, 1.5, 31, **F64)[:, None]
    found = -residual(loss, x, t, x * 0) / width  # R = (x_0 - E[x']) / r
    close(found, smoothed_score(x, width), 1e-10)
    at = rests(lambda x: residual(loss, x[:, None], t, x[:, None] * 0)[:, 0], -1.2, 1.2, 12)
    assert at == pytest.approx([-0.600, 0.900], abs=6e-4)


def test_mean_shift_by_draws_has_the_same_mean():
    """3600 draws of x' on a Gaussian; within four standard errors, and 2 % for 100 steps."""
    m, s, width, x = 0.3, 0.5, 0.4, 1.0
    loss = MeanShift(Gaussian(), about(m, s=s), steps=100)
    loss.rng = generators([0], "noise")
    t = float(loss.model.schedule.time(-2 * math.log(width)))
    x_0 = torch.full((1, 1, 60, 60), x, **F64)
    found = width * residual(loss, x_0, t, x_0 * 0)  # x_0 - x'
    truth = x - (m * width**2 + x * s**2) / (s**2 + width**2)
    spread = (1 / (1 / s**2 + 1 / width**2)) ** 0.5
    assert float(found.mean()) == pytest.approx(truth, abs=4 * spread / 60 + 0.02 * truth)
    # the last step is a posterior mean, so that a little of the spread is missing
    assert float(found.std()) == pytest.approx(spread, rel=0.05)


# Control variates and rewards


def test_stein_keeps_the_mean_for_any_baseline():
    def phi(x):
        return (1.3 * x).sin().flatten(1).sum(1) + 0.2 * x.square().flatten(1).sum(1)

    eps, weight = normal_nodes(40)
    eps, rows = eps.reshape(-1, 1, 1, 1), torch.full((40, 1, 1, 1), 0.4, **F64)
    means = []
    for baseline, u in ((None, 0.0), (None, 1.0), (None, 0.3), (phi, 1.0), (phi, -2.0)):
        loss = Stein(Gaussian(), about(0.3), baseline=baseline, strength=u)
        means.append((residual(loss, rows, 0.3, eps).flatten() * weight).sum())
    close(torch.stack(means), means[0].expand(5), 1e-10)


@pytest.mark.parametrize("index", [50, 400])
def test_stein_learns_the_strength_of_least_variance(index):
    s = 0.5
    alpha, sigma = alpha_sigma(index)
    best = float(sigma**2 / (alpha**2 * s**2 + sigma**2))  # of a Gaussian
    loss = Stein(Gaussian(), about(0.3, s=s), t_law=always(index / (STEPS - 1)), decay=0.5)
    x_0 = torch.full((1, 1, 60, 60), 0.3, **F64)
    variance = [float(gradient(loss, x_0, rng=RNG).var()) for RNG in [generators([0], "n")] * 12]
    scale = float(sigma**4)
    fixed = {
        u: scale * float((sigma**2 / (alpha**2 * s**2 + sigma**2) / sigma * sigma - u) ** 2)
        for u in (0.0, 1.0, best)
    }
    assert variance[0] == pytest.approx(fixed[1.0], rel=0.15)
    assert variance[-1] < 0.02 * min(fixed[0.0], fixed[1.0])


def test_reward_of_a_constant_is_a_mean_and_of_one_noise_is_sds():
    options = {"negative": about(-1.0), "scale": 7.5, "t_law": always(0.4)}
    sds = SDS(Gaussian(), about(0.3), **options)

    def flat(image):
        return image.new_zeros(len(image))

    one = RewardSDS(Gaussian(), about(0.3), reward=flat, noises=1, choose=Softmax(), **options)
    assert torch.equal(gradient(one, points()), gradient(sds, points()))
    many = RewardSDS(Gaussian(), about(0.3), reward=flat, noises=3, choose=Softmax(), **options)
    inner = RewardSDS(
        Gaussian(), about(0.3), reward=flat, noises=3, choose=Softmax(), inner=sds, **options
    )
    rng = generators(range(3), "noise")
    found = gradient(many, points(), rng=rng)
    rng = generators(range(3), "noise")
    assert torch.equal(gradient(inner, points(), rng=rng), found)
    from sdstoolkit.rng import uniform

    rng = generators(range(3), "noise")
    uniform(rng)
    level = sds.model.level(0.4, points())
    each = [residual(sds, points(), 0.4, normal(rng, (1, 2, 2), **F64)) for _ in range(3)]
    close(found, level.sigma**2 * torch.stack(each).mean(0))


def test_reward_prefers_the_noises_it_likes():
    rewards = torch.tensor([[3.0, 1.0, 4.0, 1.5, 9.0]], **F64)
    assert Best()(rewards).tolist() == [[0, 0, 0, 0, 1]]
    assert Extremes()(rewards).tolist() == [[0, -0.05, 0.45, -0.05, 0.45]]
    assert float(Extremes()(rewards).sum()) == pytest.approx(0.8)
    assert Softmax(0.1)(rewards).argmax() == 4
    bright = RewardSDS(
        Prior(Gaussian(), Codec(channels=1)), reward=TargetColour((1.0,)), choose=Best(), noises=8,
        t_law=always(0.6), weight=NoiseRatio(),
    )  # fmt: skip
    plain = SDS(Gaussian(), t_law=always(0.6), weight=NoiseRatio())
    x_0 = points(40)
    lifted = (x_0 - gradient(bright, x_0)).mean() - (x_0 - gradient(plain, x_0)).mean()
    assert lifted > 0.1


def test_clip_similarity_reads_a_local_folder(tmp_path):
    from tiny_models import clip_tokenizer
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(clip_tokenizer(tmp_path))
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    model.save_pretrained(tmp_path)
    reward = CLIPSimilarity(tmp_path, "a red heart")
    image = torch.rand(2, 3, 16, 16)
    found = reward(image)
    assert found.shape == (2,) and (found.abs() <= 1).all()
    pixels = torch.nn.functional.interpolate(image, (8, 8), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (reward.MEAN, reward.STD))
    tokens = tokenizer(["a red heart"], return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=(pixels - mean) / std, **tokens)
    close(found, (out.logits_per_image / model.logit_scale.exp())[:, 0], 1e-5)


# Editing


def editing(kind, model=None, **options):
    options = {"negative": about(0.0), "scale": 7.5} | options
    model = model or Gaussian()
    return kind(model, about(1.0), source=points(1), source_prompt=about(-0.5), **options)


def test_an_edit_to_the_same_prompt_has_no_gradient():
    for kind in (DDS, PDS, IDS):
        loss = kind(
            Gaussian(), about(1.0), source=points(), source_prompt=about(1.0),
            negative=about(0.0), scale=7.5,
        )  # fmt: skip
        assert not gradient(loss, points()).any(), kind


def test_dds_on_gaussians_has_no_variance_and_rests_at_the_shifted_source():
    loss = editing(DDS)
    g = [residual(loss, points(), 0.4, eps) for eps in (noises(), noises() * -2)]
    close(g[0], g[1])
    scale = 7.5  # guided means: 7.5 m, so that the edit is of 7.5 (1 + 0.5)
    rest = points(1) + scale * 1.5
    assert residual(loss, rest, 0.4, noises(1)).abs().max() < 1e-11


def test_pds_with_the_posterior_s_coefficients_is_a_weighted_dds():
    loss = editing(PDS, stride=0.05, identity=0.0)
    t = torch.tensor([0.2, 0.5, 0.8], **F64)
    schedule, x_0 = loss.model.schedule, points()
    level, below = schedule.level(t, x_0), schedule.level(t - 0.05, x_0)
    c_0, c_1, sd = posterior_coefficients(level.alpha, level.sigma, below.alpha, below.sigma)
    y_0 = points(1).expand(3, -1, -1, -1)

    def latent(x, condition):  # as the paper has it, with both draws
        x_t, x_s = level.perturb(x, noises()), below.perturb(x, points(seed=55))
        told, untold = (loss.model(x_t, level, c).x_0 for c in (condition, about(0.0)))
        return (x_s - c_0 * (7.5 * told - 6.5 * untold) - c_1 * x_t) / sd

    literal = latent(x_0, about(1.0)) - latent(y_0, about(-0.5))
    close(residual(loss, x_0, t, noises()), literal, 1e-9)
    dds = residual(editing(DDS), x_0, t, noises())
    close(literal, c_0 * level.ratio / sd * dds, 1e-9)
    pulled = editing(PDS, stride=0.05, identity=0.3, t_law=always(0.5))
    free = editing(PDS, stride=0.05, identity=0.0, t_law=always(0.5))
    close(gradient(pulled, x_0) - gradient(free, x_0), 0.3 * (x_0 - y_0))


def test_the_identity_weight_that_pds_was_released_with():
    for index, psi in {20: 1.70, 100: 0.318, 300: 0.080, 500: 0.032, 900: 0.0062}.items():
        assert released_identity_weight(index) == pytest.approx(psi, rel=0.02)


def test_ids_is_dds_without_iterations_and_sds_at_its_fixed_point():
    close(
        residual(editing(IDS, iterations=0), points(), 0.4, noises()),
        residual(editing(DDS), points(), 0.4, noises()),
    )
    loss = editing(IDS, scale=1.0, negative=None, iterations=150, step=0.04)
    level = loss.model.level(0.15, points())
    eps = loss.source_noise(points(1).expand(3, -1, -1, -1), level, noises())
    y_t = level.perturb(points(1).expand(3, -1, -1, -1), eps)
    off = loss.model(y_t, level, about(-0.5)).eps - eps
    before = loss.model(level.perturb(points(1).expand_as(eps), noises()), level, about(-0.5)).eps
    assert off.abs().max() < 0.03 * (before - noises()).abs().max()
    sds = SDS(loss.model, about(1.0))
    found = residual(loss, points(), 0.15, noises())
    assert (found - residual(sds, points(), 0.15, eps)).abs().max() <= off.abs().max() + 1e-12


def test_cds_is_dds_and_the_gradient_of_its_contrast():
    model = Net()
    options = {"t_law": always(0.4), "model": model}
    plain, none = editing(DDS, **options), editing(CDS, contrast=0.0, **options)
    assert torch.equal(gradient(none, points()), gradient(plain, points()))

    class Patches(Net):  # its attention sees several patches
        def output(self, x_t, level, condition):
            m = condition["m"].to(x_t.dtype).reshape(-1, 1, 1) if condition else 0.0
            patches = torch.stack([x_t.flatten(1).roll(k, 1) for k in range(4)], 1)
            return self.out(torch.tanh(self.attn1(patches + m))).mean(1).reshape(x_t.shape)

    loss = editing(CDS, model=Patches(), t_law=always(0.4), contrast=2.0)
    base = editing(DDS, model=Patches(), t_law=always(0.4))
    rng = [generators([3], "noise") for _ in range(2)]
    found = gradient(loss, points(1), rng=rng[0]) - gradient(base, points(1), rng=rng[1])
    from sdstoolkit.rng import uniform

    rng = generators([3], "noise")
    uniform(rng)
    eps, level = normal(rng, (1, 2, 2), **F64), loss.model.level(0.4, points(1))

    def contrast(x_0):
        with torch.no_grad():
            here = loss.features(level.perturb(x_0, eps), level, about(1.0))
            there = loss.features(level.perturb(points(1), eps), level, about(-0.5))
            return float(loss.nce(here, there))

    step = 1e-5
    for k in range(4):
        move = torch.zeros(4, **F64)
        move[k] = step
        move = move.reshape(1, 1, 2, 2)
        slope = (contrast(points(1) + move) - contrast(points(1) - move)) / (2 * step)
        assert float(found.flatten()[k]) == pytest.approx(2 * slope, rel=1e-5, abs=1e-8)


# Inverse problems


def test_red_diff_rests_where_tikhonov_does():
    A = points(1, shape=(3, 4))[0]
    y, m, s, lam = points(1, shape=(3,))[0], 0.3, 0.5, 0.7
    t = torch.linspace(0.05, 0.95, 19, **F64)
    loss = REDDiff(
        Gaussian(VP()), about(m, s=s), lam=lam,
        measure=lambda x: x.flatten(1) @ A.T, measured=y[None],
    )  # fmt: skip
    alpha, sigma = loss.model.schedule(t)
    precision = lam * (sigma**2 / (alpha**2 * s**2 + sigma**2)).mean()
    truth = tikhonov(y, A, torch.full((4,), m, **F64), precision)
    x_0 = truth.reshape(1, 1, 2, 2).expand(19, -1, -1, -1)
    level = loss.model.level(t, x_0)
    mean = loss.weight(level) * loss.residual(x_0, level.alpha * x_0, level, torch.zeros_like(x_0))
    total = (mean + loss.besides(x_0, level)).mean(0)
    assert total.abs().max() < 1e-11
    sds = SDS(Gaussian(VP()), about(m, s=s), weight=NoiseRatio(), t_law=loss.t_law)
    free = REDDiff(Gaussian(VP()), about(m, s=s), lam=1.0)
    close(gradient(free, points()), gradient(sds, points()))


# Limits and laws


def test_limits_of_the_gradient():
    options = {"t_law": always(0.4), "weight": NoiseRatio()}
    plain = gradient(SDS(Gaussian(), about(0.3), **options), points())
    free = gradient(SDS(Gaussian(), about(0.3), limits=[Clip(math.inf, 1.0)], **options), points())
    assert torch.equal(free, plain)
    tight = SDS(Gaussian(), about(0.3), limits=[Clip(0.1, 0.5)], **options)
    assert torch.equal(gradient(tight, points()), plain.clamp(-0.1, 0.1))
    tight = SDS(Gaussian(), about(0.3), limits=[Clip(0.1, 0.5)], **options)
    close(gradient(tight, points(), progress=0.5), plain.clamp(-0.3, 0.3))
    dmd = gradient(SDS(Gaussian(), about(0.3), limits=[Normalise()], **options), points())
    close(dmd, plain / plain.abs().mean((1, 2, 3), keepdim=True))  # plain is x_0 - x_0_hat
    # of VSD the divisor is the real network's
    real, fake = Gaussian(), Gaussian()
    vsd = VSD(real, about(0.3), fake=fake, limits=[Normalise()], **options)
    fake.output = lambda x, level, c: Gaussian.output(fake, x, level, about(2.0).expand(len(x)))
    rng = generators(range(3), "noise")
    found = gradient(vsd, points(), rng=rng)
    bare = VSD(real, about(0.3), fake=fake, **options)
    close(found, gradient(bare, points()) / plain.abs().mean((1, 2, 3), keepdim=True))
    unit = gradient(SDS(Gaussian(), about(0.3), limits=[UnitNorm()], **options), points())
    close(unit.flatten(1).norm(dim=1), torch.ones(3, **F64))


def test_an_inverse_distribution_function_of_any_density():
    u = torch.linspace(0, 1, 101, **F64)[:-1]
    flat = InverseCDF(density=torch.ones_like, t_min=0.1, t_max=0.9)
    close(flat(u, 0.0), UniformLaw(t_min=0.1, t_max=0.9)(u, 0.0))
    rising = InverseCDF(density=lambda t: t, t_min=0.0, t_max=1.0)
    close(rising(u, 0.0), u.sqrt(), 1e-9)
    falls = InverseCDF(density=torch.ones_like, anneal=True, t_min=0.1, t_max=0.9)
    for progress in (0.0, 0.3, 1.0):
        close(falls(u, progress), LinearAnneal(t_min=0.1, t_max=0.9)(u, progress))


def test_dreamtime_falls_and_lingers():
    law, u = DreamTime(), torch.zeros(1, **F64)
    t = torch.stack([law(u, k / 200)[0] for k in range(201)])
    assert (t.diff() <= 0).all() and abs(t[0] - 0.98) < 1e-9 and abs(t[-1] - 0.02) < 1e-9
    grid = torch.linspace(0.02, 0.98, 20001, **F64)
    w = torch.where(
        grid > 0.8,
        torch.exp(-((grid - 0.8) ** 2) / 0.18),
        torch.where(grid < 0.5, torch.exp(-((grid - 0.5) ** 2) / 0.02), 1.0),
    )
    above = w.flip(0).cumsum(0) / w.sum()
    for k in (20, 100, 180):  # where the weight above t is the progress
        nearest = grid.flip(0)[(above - k / 200).abs().argmin()]
        assert float(t[k]) == pytest.approx(float(nearest), abs=1e-3)


@pytest.mark.parametrize("name", ["cfd", "sdi", "stein", "vsd"])
def test_a_loss_that_keeps_something_is_put_away_and_taken_up(name):
    def make():
        options = {"negative": about(0.0), "scale": 7.5}
        return MAKE[name](Net(), about(1.0), options)

    def call(loss, progress, rng):
        loss.fit(points(), rng=rng)
        return gradient(loss, points(), progress=progress, rng=rng)

    one, other, rng = make(), make(), generators(range(3), "noise")
    for progress in (0.0, 0.01):
        call(one, progress, rng)
    copies = generators(range(3), "noise")
    for mine, theirs in zip(copies, rng, strict=True):
        mine.set_state(theirs.get_state())
    other.restore({key: value.clone() for key, value in one.state().items()})
    for progress in (0.02, 0.5):
        assert torch.equal(call(other, progress, copies), call(one, progress, rng))


# What each says of itself

MAKE = {
    "asd": lambda m, c, o: ASD(m, c, **o),
    "bridge": lambda m, c, o: Bridge(m, c, target=about(1.0), source=about(-1.0), **o),
    "cds": lambda m, c, o: CDS(m, c, source=points(1), source_prompt=about(0.5), **o),
    "cfd": lambda m, c, o: CFD(m, c, **o),
    "csd": lambda m, c, o: CSD(m, c, null=o["negative"]),
    "dds": lambda m, c, o: DDS(m, c, source=points(1), source_prompt=about(0.5), **o),
    "ids": lambda m, c, o: IDS(m, c, source=points(1), source_prompt=about(0.5), **o),
    "ism": lambda m, c, o: ISM(m, c, **o),
    "mean_shift": lambda m, c, o: MeanShift(m, c, **o),
    "nfsd": lambda m, c, o: NFSD(m, c, null=o["negative"], negative=about(-1.0), scale=o["scale"]),
    "pds": lambda m, c, o: PDS(m, c, source=points(1), source_prompt=about(0.5), **o),
    "red_diff": lambda m, c, o: REDDiff(m, c),
    "repulsive": lambda m, c, o: Repulsive(m, c, **o),
    "reward": lambda m, c, o: RewardSDS(m, c, reward=lambda x: x.flatten(1).mean(1), **o),
    "rfds": lambda m, c, o: RFDS(m, c, **o),
    "sdi": lambda m, c, o: SDI(m, c, **o),
    "sds": lambda m, c, o: SDS(m, c, **o),
    "sjc": lambda m, c, o: SJC(m, c, **o),
    "stein": lambda m, c, o: Stein(m, c, **o),
    "vsd": lambda m, c, o: VSD(m, c, **o),
}


@pytest.mark.parametrize("name", _plugins.names("sdstoolkit.distill"))
def test_rows_are_those_of_the_card(name):
    card, model, n = cards()[name], Net(), 3
    loss = MAKE[name](model, about(1.0), {"negative": about(0.0), "scale": card.scale})
    rng, rows, graphs, fitted = generators(range(n), "noise"), set(), set(), set()
    for progress in (0.0, 0.01, 0.03, 0.2, 0.21, 0.4, 0.5, 0.6, 0.7, 0.8, 0.999):
        before = model.count.rows, model.count.graphs
        with torch.no_grad():
            loss(points(n), progress=progress, rng=rng)
        rows.add((model.count.rows - before[0]) / n)
        middle, graph = model.count.rows, model.count.graphs
        loss.fit(points(n), progress=progress, rng=rng)
        fitted.add((model.count.rows - middle) / n)
        graphs.add((graph - before[1] + model.count.graphs - graph) / n)
    least, most = card.rows if isinstance(card.rows, tuple) else (card.rows,) * 2
    assert (min(rows), max(rows)) == (least, most)
    assert fitted == {card.fitted}
    assert graphs == {card.passes}
    for text in (card.paper, card.bad_at):
        assert text and "\n" not in text and "|" not in text
    assert card.link.startswith("https://arxiv.org/abs/")


def test_the_page_on_choosing_has_the_present_table():
    from pathlib import Path

    page = (Path(__file__).parents[1] / "docs" / "choosing.md").read_text(encoding="utf-8")
    assert table() in page, "run: python benchmarks/tables.py"


@pytest.mark.parametrize("name", MAKE)
def test_a_row_never_depends_on_the_rows_beside_it(name):
    card = cards()[name]
    options = {"negative": about(0.0), "scale": card.scale}
    loss = MAKE[name](Net(), about(1.0), options)
    if loss.couples:
        pytest.skip("its rows are particles of one law")
    together = gradient(loss, points(4), rng=generators(range(4), "noise"))
    for i in (0, 3):
        other = MAKE[name](Net(), about(1.0), options)
        alone = gradient(other, points(4)[i : i + 1], rng=generators([i], "noise"))
        close(alone, together[i : i + 1], 1e-10)


REFUSED = {
    "asd scale": (lambda: ASD(Gaussian(), about(1.0), scale=1.0), "give a scale"),
    "asd eta": (lambda: ASD(Gaussian(), about(1.0), negative=about(0.0), eta=-1.0), "eta is -1.0"),
    "csd prompt": (lambda: CSD(Gaussian()), "give one"),
    "csd scale": (lambda: CSD(Gaussian(), about(1.0), null=about(0.0), scale=0.0), "not zero"),
    "csd null": (lambda: CSD(Gaussian(), about(1.0)), "no null prompt"),
    "csd hold": (lambda: CSD(Gaussian(), about(1.0), null=about(0.0), hold=0), "hold is 0"),
    "csd until": (lambda: CSD(Gaussian(), about(1.0), null=about(0.0), until=1.5), "until 1.5"),
    "nfsd prompt": (lambda: NFSD(Gaussian()), "give one"),
    "bridge prompt": (lambda: Bridge(Gaussian()), "give one"),
    "bridge words": (lambda: Bridge(Gaussian(), about(1.0)), "give a Condition"),
    "rank": (lambda: VSD(Net(), about(1.0), rank=0), "rank is 0"),
    "no layer": (lambda: VSD(Gaussian(), about(1.0)), "no linear layer"),
    "fit rate": (lambda: VSD(Net(), about(1.0), lr=0.0), "lr is 0.0"),
    "two particles": (lambda: Repulsive(Gaussian(), about(1.0))(points(2)), "3 or more"),
    "no reward": (
        lambda: RewardSDS(Gaussian(), about(1.0), reward=lambda x: x.flatten(1).sum(1) * math.nan)(
            points()
        ),
        "finite number",
    ),
    "reward shape": (
        lambda: RewardSDS(Gaussian(), about(1.0), reward=lambda x: x)(points()),
        "each of them",
    ),
    "few noises": (
        lambda: RewardSDS(Gaussian(), about(1.0), noises=3, reward=lambda x: x.flatten(1).sum(1))(
            points()
        ),
        "draw 4",
    ),
    "noises": (lambda: RewardSDS(Gaussian(), reward=lambda x: x, noises=0), "at least 1"),
    "colour": (lambda: TargetColour((2.0, 0.0, 0.0)), "[0, 1]"),
    "no clip": (lambda: CLIPSimilarity("/nowhere", "a heart"), "no folder"),
    "source": (lambda: DDS(Gaussian(), about(1.0), source=torch.zeros(2, 2)), "source has shape"),
    "source rows": (
        lambda: DDS(Gaussian(), about(1.0), source_prompt=about(0.0), source=points(2))(points(3)),
        "one source",
    ),
    "identity": (
        lambda: PDS(Gaussian(), about(1.0), source=points(), stride=0.0),
        "stride is 0.0",
    ),
    "iterations": (lambda: IDS(Gaussian(), about(1.0), source=points(), iterations=-1), "from 0"),
    "no attention": (lambda: CDS(Gaussian(), about(1.0), source=points()), "use DDS"),
    "interval": (lambda: ISM(Gaussian(), interval=0.0), "interval is 0.0"),
    "stride": (lambda: ISM(Gaussian(), stride=0.0), "stride is 0.0"),
    "eta": (lambda: SDI(Gaussian(), eta=2.0), "eta 2.0"),
    "inversion": (lambda: SDI(Gaussian(), inversion_scale=-6.5), "no null prompt"),
    "gamma": (lambda: CFD(Gaussian(), gamma=2.0), "gamma is 2.0"),
    "refine": (lambda: RFDS(Gaussian(), refine=-1), "refine is -1"),
    "steps": (lambda: MeanShift(Gaussian(), steps=-1), "steps is -1"),
    "decay": (lambda: Stein(Gaussian(), decay=1.0), "decay is 1.0"),
    "measure": (lambda: REDDiff(Gaussian(), measured=points()), "give both"),
    "obs": (lambda: REDDiff(Gaussian(), obs=-1.0), "obs is -1.0"),
    "clip": (lambda: Clip(0.0, 1.0), "above 0"),
    "times reversed": (lambda: InverseCDF(t_min=0.9, t_max=0.1), "t_min <= t_max"),
    "density": (lambda: InverseCDF(density=lambda t: -t), "no density"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said_in_one_sentence(name):
    wrong, word = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(word)) as caught:
        wrong()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert not re.search(r"\. [A-Z]", message)
