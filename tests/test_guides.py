"""Guidance beside the classifier-free one: degenerate cases, and posteriors in closed form."""

import math
import re

import pytest
import torch
from problems_distillation import Gaussian

from sdstoolkit.condition import Condition
from sdstoolkit.guidance import (
    DPS,
    MMPS,
    AdaptiveProjected,
    Autoguidance,
    CFGPlusPlus,
    CFGZero,
    ClassifierFree,
    Compose,
    DiffPIR,
    DiffusersGuider,
    Interval,
    PerpNeg,
    Perturbed,
    PiGDM,
    Rescale,
)
from sdstoolkit.noise import VP, Rectified
from sdstoolkit.operators import Blur, Downsample, Grey, Mask
from sdstoolkit.prediction import Epsilon, Flow, Sample, V
from sdstoolkit.rng import generators, normal
from sdstoolkit.samplers.ddim import DDIM, kernel
from sdstoolkit.samplers.feynman_kac import FeynmanKac
from sdstoolkit.samplers.repaint import RePaint
from sdstoolkit.samplers.reverse_sde import ReverseSDE
from sdstoolkit.toy import Mixture

F64 = {"dtype": torch.float64}
SHAPE = (3, 8, 8)


def about(m, s=0.5):
    return Condition({"m": torch.tensor([[m]], **F64), "s": torch.tensor([[s]], **F64)})


def gaussian(parameterization=None, schedule=None, shape=SHAPE):
    return Gaussian(schedule or VP(), parameterization or V(), shape=shape)


def states(n=2, seed=3, shape=SHAPE):
    return normal(generators(range(seed, seed + n), "states"), shape, **F64)


def close(found, truth, tol=1e-10):
    torch.testing.assert_close(found, truth, rtol=tol, atol=tol)


TOLD, NULL, T = about(1.0), about(-0.4, s=0.8), 0.4


def x_0(model, t=T, condition=TOLD):
    with torch.no_grad():
        return model(states(), t, condition).x_0


PLAIN = {
    "apg": lambda m, w: AdaptiveProjected(
        m, NULL, scale=w, parallel=1.0, radius=math.inf, momentum=0.0
    ),
    "compose": lambda m, w: Compose(m, NULL, [], scale=w),
    "interval": lambda m, w: Interval(m, NULL, scale=w, low=0.0, high=1e9),
    "perp_neg": lambda m, w: PerpNeg(m, NULL, [(TOLD, -0.7)], scale=w),
    "rescale": lambda m, w: Rescale(m, NULL, scale=w, share=0.0),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("parameterization", [Epsilon(), Sample(), V()])
def test_it_has_classifier_free_guidance_as_a_special_case(name, parameterization):
    model = gaussian(parameterization)
    for scale in (0.0, 1.0, 5.0):
        truth = x_0(ClassifierFree(model, NULL, scale=scale))
        close(x_0(PLAIN[name](model, scale)), truth)
    line = PLAIN[name](model, 5.0).describe()["guidance"]
    assert line["scale"] == 5.0 and line["name"] == type(PLAIN[name](model, 5.0)).__name__


ALL = PLAIN | {
    "projected": lambda m, w: AdaptiveProjected(m, NULL, scale=w),
    "cfg++": lambda m, w: CFGPlusPlus(m, NULL, share=0.5, times=[0.4, 0.3]),
    "autoguidance": lambda m, w: Autoguidance(m, m, scale=w),
    "rescaled": lambda m, w: Rescale(m, NULL, scale=w),
}


@pytest.mark.parametrize("name", ALL)
def test_where_the_conditions_agree_nothing_changes(name):
    model = gaussian()
    guided = ALL[name](model, 5.0)
    if hasattr(guided, "negatives"):
        guided.negatives = ((NULL, -0.7),)
    close(x_0(guided, condition=NULL), x_0(model, condition=NULL))


def test_interval_spares_the_ends_and_their_cost():
    model = gaussian()
    guided = Interval(model, NULL, scale=5.0, low=0.5, high=2.0)
    full = ClassifierFree(model, NULL, scale=5.0)
    for ratio, inside in ((0.4, False), (1.0, True), (2.1, False)):
        t = float(model.schedule.time(-2 * math.log(ratio)))
        model.rows.clear()
        found = x_0(guided, t)
        assert model.rows == [4 if inside else 2]
        close(found, x_0(full if inside else model, t))


def test_rescale_gives_the_output_the_conditional_deviation():
    model = gaussian()
    level, x = model.level(T, states()), states()
    out = Rescale(model, NULL, scale=9.0, share=1.0).outputs(x, level, [TOLD])[0]
    told = model.outputs(x, level, [TOLD])[0]
    close(out.flatten(1).std(1), told.flatten(1).std(1))


def test_apg_projects_bounds_and_remembers():
    model = gaussian()
    options = {"scale": 5.0, "radius": math.inf, "momentum": 0.0}
    told, null = x_0(model), x_0(model, condition=NULL)
    d = told - null
    found = x_0(AdaptiveProjected(model, NULL, **options)) - told
    close((found * told).flatten(1).sum(1), torch.zeros(2, **F64), 1e-9)  # across x_0
    along = (d * told).flatten(1).sum(1) / told.square().flatten(1).sum(1)
    close(found, 4 * (d - along.reshape(-1, 1, 1, 1) * told))
    bound = AdaptiveProjected(model, NULL, scale=5.0, radius=0.3, parallel=1.0, momentum=0.0)
    close((x_0(bound) - told).flatten(1).norm(dim=1), torch.full((2,), 4 * 0.3, **F64))
    walk = AdaptiveProjected(model, NULL, scale=2.0, radius=math.inf, parallel=1.0, momentum=-0.5)
    first, again = x_0(walk, 0.5), x_0(walk, T)
    close(first, 2 * x_0(model, 0.5) - x_0(model, 0.5, NULL))
    close(again - told, d - 0.5 * (x_0(model, 0.5) - x_0(model, 0.5, NULL)))
    close(x_0(walk, 0.5), first)  # a later time is another walk


def test_cfg_pp_is_ddim_that_puts_unguided_noise_back():
    for schedule, parameterization in ((VP(), Epsilon()), (Rectified(), Flow())):
        model = gaussian(parameterization, schedule)
        start = 0.9 if isinstance(schedule, VP) else 1.0
        sampler = DDIM(model, steps=6, start=start, stop=0.05)
        guided = CFGPlusPlus(model, NULL, share=0.6, times=sampler.times)
        walk = DDIM(guided, steps=6, start=start, stop=0.05)
        x = states()
        *path, last = walk.steps(2, TOLD, start=x)
        for t, s, there in zip(sampler.times, sampler.times[1:], path[1:], strict=False):
            with torch.no_grad():
                told, null = model(x, t, TOLD), model(x, t, NULL)
            clean = 0.6 * told.x_0 + 0.4 * null.x_0
            a, b = kernel(schedule, s)
            x = a * clean + b * null.eps
            close(there, x, 1e-9)
        close(last, 0.6 * x_0_of(model, x, 0.05, TOLD) + 0.4 * x_0_of(model, x, 0.05, NULL), 1e-9)


def x_0_of(model, x, t, condition):
    with torch.no_grad():
        return model(x, t, condition).x_0


def test_cfg_zero_ignores_a_multiple_and_starts_at_rest():
    model = gaussian(Flow(), Rectified())
    outputs = {1.0: states(seed=8), -0.4: states(seed=8) / 3}
    model.output = lambda x, level, c: torch.cat([
        outputs[float(m)][i % 2][None] for i, m in enumerate(c["m"][:, 0])
    ])  # fmt: skip
    level = model.level(T, states())
    for scale in (0.0, 1.0, 7.5):
        close(CFGZero(model, NULL, scale=scale).outputs(states(), level, [TOLD])[0], outputs[1.0])
    still = CFGZero(model, NULL, scale=7.5, zero_above=0.3).outputs(states(), level, [TOLD])[0]
    assert not still.any()


def test_perp_neg_takes_nothing_back_from_the_prompt():
    model = gaussian()
    level, x = model.level(T, states()), states()
    other = about(2.0, s=0.1)
    told, null, bad = model.outputs(x, level, [TOLD, NULL, other])
    found = PerpNeg(model, NULL, [(other, -0.8)], scale=3.0).outputs(x, level, [TOLD])[0]
    d = told - null
    change = found - null - 3.0 * d
    close((change * d).flatten(1).sum(1), torch.zeros(2, **F64), 1e-9)
    pull = ((bad - null) * change).flatten(1).sum(1)
    assert (pull < 0).all()  # and away from what it names


def test_compose_adds_and_subtracts_conditions():
    model, other = gaussian(), about(2.0, s=0.1)
    level, x = model.level(T, states()), states()
    told, null, also = model.outputs(x, level, [TOLD, NULL, other])
    for weight in (2.0, -1.0):
        found = Compose(model, NULL, [(other, weight)], scale=3.0).outputs(x, level, [TOLD])[0]
        close(found, null + 3 * (told - null) + weight * (also - null))


def test_autoguidance_leaves_a_worse_model_whatever_that_predicts():
    good, bad = gaussian(V()), gaussian(Epsilon())
    bad.output, plain = (lambda x, level, c: plain(0.9 * x, level, c)), bad.output
    found = x_0(Autoguidance(good, bad, scale=3.0))
    close(found, x_0(bad) + 3 * (x_0(good) - x_0(bad)))


# Networks of diffusers


@pytest.fixture(scope="module")
def prior():
    from tiny_models import folder

    from sdstoolkit import load

    return load(folder("sd_epsilon")).double()


@pytest.mark.parametrize("skip", [False, True])
def test_perturbed_leaves_the_network_whole(prior, skip):
    told, null = prior.condition("a red heart").to(dtype=torch.float64), prior.condition("")
    null = null.to(dtype=torch.float64)
    model, x = prior.score, states(shape=(4, 8, 8))
    level = model.level(T, x)
    with torch.no_grad():
        before = model.outputs(x, level, [told, null])
        off = Perturbed(model, strength=0.0, skip=skip).outputs(x, level, [told])[0]
        on = Perturbed(model, strength=2.0, skip=skip)
        damaged = on.damaged.outputs(x, level, [told])[0]
        assert not torch.allclose(damaged, before[0])
        close(off, before[0])
        close(on.outputs(x, level, [told])[0], before[0] + 2 * (before[0] - damaged))
        both = Perturbed(model, null, strength=2.0, scale=5.0, skip=skip)
        truth = before[1] + 5 * (before[0] - before[1]) + 2 * (before[0] - damaged)
        close(both.outputs(x, level, [told])[0], truth)
        close(model.outputs(x, level, [told])[0], before[0])
    assert all(a is b for a, b in zip(on.damaged.parameters(), model.parameters(), strict=True))
    with pytest.raises(ValueError, match="there are: network"):
        Perturbed(model, layers=["nowhere"])


def test_guiders_of_diffusers_are_wrapped_or_refused():
    from diffusers import guiders

    model = gaussian()
    times = [0.9, T, 0.1]
    mine = ClassifierFree(model, NULL, scale=7.5)
    plain = DiffusersGuider(
        model, NULL, guiders.ClassifierFreeGuidance(guidance_scale=7.5), times=times
    )
    close(x_0(plain), x_0(mine))
    late = guiders.ClassifierFreeGuidance(guidance_scale=7.5, start=0.4)
    model.rows.clear()
    close(x_0(DiffusersGuider(model, NULL, late, times=times), 0.9), x_0(model, 0.9))
    for name in (
        "AdaptiveProjectedGuidance",
        "TangentialClassifierFreeGuidance",
        "ClassifierFreeZeroStarGuidance",
        "AdaptiveProjectedMixGuidance",
    ):
        guided = DiffusersGuider(model, NULL, getattr(guiders, name)(), times=times)
        for t in times:
            found = guided.outputs(states(), model.level(t, states()), [TOLD])[0]
            assert found.shape == states().shape and found.isfinite().all(), name
    for name in ("PerturbedAttentionGuidance", "SkipLayerGuidance", "AutoGuidance"):
        layer = (
            {"auto_guidance_layers": [0], "dropout": 0.1}
            if name == "AutoGuidance"
            else {
                "perturbed_guidance_layers" if name[0] == "P" else "skip_layer_guidance_layers": [
                    0
                ]
            }
        )
        with pytest.raises(ValueError, match="reaches into"):
            DiffusersGuider(model, NULL, getattr(guiders, name)(**layer), times=times)


# Measurements


def operators():
    known = (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.4).double()
    return {"mask": Mask(known), "grey": Grey(), "down": Downsample(2), "blur": Blur(0.6)}


@pytest.mark.parametrize("name", operators())
def test_an_operator_its_adjoint_and_its_inverse(name):
    A, x = operators()[name], states()
    y = A(x)
    u = normal(generators([5, 6], "u"), y.shape[1:], **F64)
    close((A(x) * u).sum(), (x * A.adjoint(u)).sum())
    for c in (0.3, torch.tensor([0.3, 2.0], **F64).reshape(2, 1, 1, 1)):
        v = A.solve(u, c)
        close(A(A.adjoint(v)) + c * v, u, 1e-9)
    close(A(A.pseudo_inverse(y)), y, 1e-8)


def test_operators_are_kornia_s():
    import kornia

    image = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    close(Grey()(image), kornia.color.rgb_to_grayscale(image), 1e-6)
    blurred = kornia.filters.gaussian_blur2d(image, (9, 9), (1.0, 1.0), border_type="circular")
    close(Blur(1.0)(image), blurred, 1e-6)


def posterior(A, y, m, s, sigma_y, x_t, alpha, sigma):
    """E[x_0 | x_t, y] of N(m, s^2 I), by one dense solve a row."""
    D = x_t[0].numel()
    eye = torch.eye(D, **F64).reshape(D, *SHAPE)
    matrix = A(eye).flatten(1).T
    precision = (1 / s**2 + alpha**2 / sigma**2) * torch.eye(D, **F64)
    precision = precision + matrix.T @ matrix / sigma_y**2
    right = m / s**2 + alpha * x_t.flatten(1) / sigma**2 + y.flatten(1) @ matrix / sigma_y**2
    return torch.linalg.solve(precision, right.T).T.reshape(x_t.shape)


@pytest.mark.parametrize("name", operators())
@pytest.mark.parametrize("spread", [1.0, 0.5])
def test_pigdm_and_mmps_are_exact_on_gaussian_priors(name, spread):
    A, model, sigma_y = operators()[name], gaussian(), 0.2
    prior = about(0.3, s=spread)
    y = A(states(seed=20)) + 0.1
    alpha, sigma = kernel(model.schedule, T)
    truth = posterior(A, y, 0.3, spread, sigma_y, states(), alpha, sigma)
    close(x_0(PiGDM(model, A, y, sigma_y=sigma_y, spread=spread), condition=prior), truth, 1e-8)
    mmps = MMPS(model, A, y, sigma_y=sigma_y, iterations=30)
    close(x_0(mmps, condition=prior), truth, 1e-7)


def test_diffpir_is_a_projection_without_noise_and_a_proximal_step_with():
    for A in operators().values():
        model, y = gaussian(), A(states(seed=20))
        close(A(x_0(DiffPIR(model, A, y))), y, 1e-8)
        found = x_0(DiffPIR(model, A, y, sigma_y=0.3, strength=5.0))
        alpha, sigma = kernel(model.schedule, T)
        rho = 5.0 * 0.09 * (alpha / sigma) ** 2
        slope = A.adjoint(A(found) - y) + rho * (found - x_0(model))
        assert slope.abs().max() < 1e-9


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_dps_is_a_step_down_the_misfit_after_the_sampler_s_own(eta):
    A, model = Downsample(2), gaussian()
    y, x = A(states(seed=20)), states()
    options = {"steps": 5, "start": 0.9, "stop": 0.05, "eta": eta}
    plain = DDIM(model, **options)
    guided = DPS(model, A, y, times=plain.times, eta=eta, step=0.3)
    free = list(plain.steps(2, TOLD, start=x))
    led = list(DDIM(guided, **options).steps(2, TOLD, start=x))
    z = states()
    for t, at in ((0.9, 1),):
        x = z.clone().requires_grad_()
        misfit = (y - A(model(x, t, TOLD).x_0)).flatten(1).norm(dim=1).sum()
        (slope,) = torch.autograd.grad(misfit, x)
        close(led[at], free[at] - 0.3 * slope, 1e-9)
    assert (A(led[-1]) - y).norm() < (A(free[-1]) - y).norm()


def test_dps_takes_any_function():
    model = gaussian()
    guided = DPS(model, lambda x: x.square().mean((1, 2, 3)), torch.ones(1, **F64), times=[T, 0.1])
    assert (x_0(guided) - x_0(model)).abs().max() > 0


def test_posterior_means_of_a_mixture_are_near_the_truth():
    """Not Gaussian: MMPS is nearer to the exact posterior mean than plain Tweedie is."""
    law = Mixture(
        means=[[-1.0, 0.0], [1.5, 0.5]], std=[0.3, 0.2], weights=[0.4, 0.6], shape=(2, 1, 1)
    )
    model, t = law.under(VP()), 0.3
    x = normal(generators(range(64), "x"), (2, 1, 1), **F64)

    class First(Downsample):
        def __call__(self, x):
            return x[:, :1]

        def adjoint(self, y):
            return torch.cat([y, torch.zeros_like(y)], 1)

        def solve(self, y, c):
            return y / (1 + c)

    y = torch.full((1, 1, 1, 1), 1.4, **F64)
    alpha, sigma = kernel(model.schedule, t)
    grid = torch.linspace(-4, 4, 321, **F64)
    points = torch.cartesian_prod(grid, grid)
    joint = law.log_prob(points.reshape(-1, 2, 1, 1)) - (points[:, 0] - 1.4) ** 2 / (2 * 0.1**2)
    square = (x.flatten(1)[:, None] - alpha * points[None]).square().sum(-1)
    share = (joint - square / (2 * sigma**2)).softmax(1)
    truth = (share @ points).reshape(-1, 2, 1, 1)
    with torch.no_grad():
        plain = model(x, t).x_0
        led = MMPS(model, First(1), y, sigma_y=0.1, iterations=3)(x, t).x_0
    assert (led - truth).square().mean() < 0.1 * (plain - truth).square().mean()


def test_repaint_keeps_what_is_known_and_fits_the_rest():
    """A Gaussian with correlated pixels: the unknown one follows the known, at its regression."""
    law = Mixture(means=[[0.0, 0.0]], covariances=[[1.0, 0.9], [0.9, 1.0]], shape=(2, 1, 1))
    known = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    y = torch.tensor([1.5, 99.0]).reshape(1, 2, 1, 1)
    means = []
    for resamples in (0, 8):
        sampler = RePaint(law.under(VP()), y, known, resamples=resamples, steps=25)
        found = sampler.sample(512, seed=0).flatten(1)
        assert (found[:, 0] == 1.5).all()
        means.append(float(found[:, 1].mean()))
    assert means[1] == pytest.approx(0.9 * 1.5, rel=0.06)
    assert abs(means[0] - 1.35) > abs(means[1] - 1.35)  # what resampling is for


def test_feynman_kac_weights_make_guidance_the_product():
    """N(0, 1)^-2 N(1.5, .4^2)^3 has mean 1.679 and variance .0597; plain guidance 1.779, .0404.

    Within eight standard errors, which resampling makes larger, and 1 % for 200 steps (seed 0).
    """
    model = Gaussian(VP(), Epsilon(), shape=(1,))
    told = Condition({"m": torch.tensor([[1.5]]), "s": torch.tensor([[0.4]])})
    null = Condition({"m": torch.tensor([[0.0]]), "s": torch.tensor([[1.0]])})
    n, options = 3000, {"steps": 200}
    start = torch.randn(n, 1, generator=torch.Generator().manual_seed(0)).double()
    precision = 3 / 0.16 - 2
    mean, variance = 3 * 1.5 / 0.16 / precision, 1 / precision
    assert (mean, variance) == pytest.approx((1.679, 0.0597), rel=1e-3)
    sampler = FeynmanKac(model, [told, null], [3.0, -2.0], **options)
    found = sampler.sample(n, start=start)
    error = (variance / n) ** 0.5 * 4
    assert float(found.mean()) == pytest.approx(mean, abs=2 * error + 0.01 * mean)
    assert float(found.var()) == pytest.approx(variance, rel=0.15)
    plain = ReverseSDE(ClassifierFree(model, null, scale=3.0), **options).sample(
        n, told, start=start
    )
    assert float(plain.mean()) == pytest.approx(1.779, abs=0.02)
    assert float(plain.var()) == pytest.approx(0.0404, rel=0.12)
    assert 0 < sampler.report["least effective share"] <= 1


def test_feynman_kac_without_anything_to_correct_is_the_reverse_sde():
    model = Gaussian(VP(), Epsilon(), shape=(1,))
    told = Condition({"m": torch.tensor([[1.5]]), "s": torch.tensor([[0.4]])})
    sampler = FeynmanKac(model, [told], [1.0], steps=20, least=0.0)
    found = sampler.sample(64, start=torch.zeros(64, 1, **F64))
    plain = ReverseSDE(model, steps=20, stop=1e-3)
    *_, before, _ = plain.steps(64, told, start=torch.zeros(64, 1, **F64))
    close(found.sort(0).values, before.sort(0).values)


REFUSED = {
    "scale": (lambda: Interval(gaussian(), NULL, scale=math.nan, low=0.0, high=1.0), "scale is"),
    "interval": (lambda: Interval(gaussian(), NULL, scale=2.0, low=2.0, high=1.0), "0 <= low"),
    "share": (lambda: Rescale(gaussian(), NULL, scale=2.0, share=2.0), "share is 2.0"),
    "radius": (lambda: AdaptiveProjected(gaussian(), NULL, scale=2.0, radius=0.0), "radius is"),
    "no falling": (lambda: CFGPlusPlus(gaussian(), NULL, times=[0.1, 0.9]), "do not fall"),
    "off the grid": (
        lambda: x_0(CFGPlusPlus(gaussian(), NULL, times=[0.9, 0.1])),
        "not a time of the grid",
    ),
    "no flow": (lambda: CFGZero(gaussian(), NULL, scale=2.0), "take ClassifierFree"),
    "no negative": (lambda: PerpNeg(gaussian(), NULL, [], scale=2.0), "take ClassifierFree"),
    "weight": (lambda: Compose(gaussian(), NULL, [(TOLD, math.inf)], scale=1.0), "weight 0 is"),
    "shapes": (
        lambda: Autoguidance(gaussian(), gaussian(shape=(1, 4, 4)), scale=2.0),
        "shapes",
    ),
    "schedules": (
        lambda: Autoguidance(gaussian(), gaussian(schedule=Rectified()), scale=2.0),
        "schedules",
    ),
    "no blocks": (lambda: Perturbed(gaussian()), "there are: none"),
    "no null": (lambda: Perturbed(gaussian(), scale=3.0), "no null"),
    "grey mask": (lambda: Mask(torch.full((1, 1, 4, 4), 0.5)), "zeros and ones"),
    "factor": (lambda: Downsample(0), "factor is 0"),
    "blocks": (lambda: Downsample(3)(states()), "blocks of 3"),
    "sigma": (lambda: Blur(0.0), "sigma is 0.0"),
    "sigma_y": (lambda: PiGDM(gaussian(), Grey(), states(), sigma_y=-1.0), "sigma_y is -1.0"),
    "spread": (lambda: PiGDM(gaussian(), Grey(), states(), spread=0.0), "spread is 0.0"),
    "iterations": (lambda: MMPS(gaussian(), Grey(), states(), iterations=0), "iterations is 0"),
    "strength": (lambda: DiffPIR(gaussian(), Grey(), states(), strength=0.0), "strength is 0.0"),
    "step": (lambda: DPS(gaussian(), Grey(), states(), times=[0.5], step=-1.0), "step is -1.0"),
    "resamples": (lambda: RePaint(gaussian(), states(), torch.ones(1), resamples=-1), "resamples"),
    "known": (lambda: RePaint(gaussian(), states(), torch.full((1,), 0.5)), "0 and 1"),
    "weights": (lambda: FeynmanKac(gaussian(), [TOLD], [1.0, 2.0]), "1 conditions"),
    "least": (lambda: FeynmanKac(gaussian(), [TOLD], [1.0], least=2.0), "least = 2.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said_in_one_sentence(name):
    wrong, word = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(word)) as caught:
        wrong()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    assert not re.search(r"\. [A-Z]", message)
