"""Score distillation against closed forms, all of it in float64."""

import gc
import re

import pytest
import torch
from problems_distillation import (
    FIXED_POINTS,
    MEANS,
    STDS,
    STEPS,
    WEIGHTS,
    Gaussian,
    alpha_sigma,
    collapse,
    gaussian_moments,
    guided_fixed_point,
    normal_nodes,
    rests,
    stable_diffusion_table,
    weighted_kl,
)
from torch import nn

from sdstoolkit import _plugins
from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.distill import SDS, AlphaSigmaSquared, Constant, Distiller, SigmaSquared
from sdstoolkit.grids import UniformLaw
from sdstoolkit.noise import VE, VP, Discrete, Rectified
from sdstoolkit.prediction import Epsilon, Flow, Karras, Sample, V
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal, uniform
from sdstoolkit.score import ScoreModel
from sdstoolkit.toy import Mixture

F64 = {"dtype": torch.float64}
MODELS = [
    (Discrete(stable_diffusion_table()), Epsilon()),
    (VP(), V()),
    (Rectified(), Flow()),
    (VE(sigma_min=0.01, sigma_max=50.0), Karras(0.5)),
    (VP(), Sample()),
]


def about(*m, s=0.5):
    m = torch.tensor(m, **F64)[:, None]
    return Condition({"m": m, "s": torch.full_like(m, s)})


def always(t):
    return lambda u, progress: torch.full_like(u, t)


def at(index):
    """Always this index of the table."""
    return always(index / (STEPS - 1))


def points(n=3, seed=7):
    return normal(generators(range(seed, seed + n), "points"), (1, 2, 2), **F64)


def gradient(loss, x_0, **options):
    x_0 = x_0.clone().requires_grad_()
    value = loss(x_0, **options)
    value.backward()
    return x_0.grad, value.detach()


def expected(loss, x_0, indices, order=64):
    """E[G] at each of some scalars x_0, by quadrature over eps and a mean over the times."""
    eps, weight = normal_nodes(order)
    t = torch.tensor(indices, **F64) / (STEPS - 1)
    shape = (1,) * len(loss.model.shape)
    eps = eps.repeat(len(t)).reshape(-1, *shape)
    total = []
    for x in x_0:
        rows = torch.full_like(eps, float(x))
        with torch.no_grad():
            level = loss.model.level(t.repeat_interleave(order), rows)
            residual = loss.residual(rows, level.perturb(rows, eps), level, eps)
            g = (loss.weight(level) * residual).reshape(len(t), order)
        total.append((g * weight).sum() / len(t))
    return torch.stack(total)


# What is injected


@pytest.mark.parametrize(("schedule", "parameterization"), MODELS)
def test_residual_is_the_pull_to_the_denoised_image(schedule, parameterization):
    model = Gaussian(schedule, parameterization)
    loss = SDS(model, about(0.3), negative=about(-1.0), scale=7.5, t_law=UniformLaw())
    g, value = gradient(loss, points(), rng=generators(range(3), "noise"))

    rng = generators(range(3), "noise")  # the same draws again: first the time, then the noise
    level = schedule.level(UniformLaw()(uniform(rng), 0.0), points())
    eps = normal(rng, (1, 2, 2), **F64)
    with torch.no_grad():
        prediction = loss.guided(level.perturb(points(), eps), level)
    w, r = level.sigma**2, level.sigma / level.alpha
    residual = prediction.eps - eps
    torch.testing.assert_close(residual, (points() - prediction.x_0) / r, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(g, w * residual, rtol=1e-12, atol=0)
    torch.testing.assert_close(value, residual.square().mean(), rtol=1e-12, atol=0)
    # the loss in x_0 has the identical gradient
    x_0 = points().requires_grad_()
    (w / r / 2 * (x_0 - prediction.x_0).square()).sum().backward()
    torch.testing.assert_close(g, x_0.grad, rtol=1e-8, atol=1e-9)


def test_residual_of_a_flow_and_of_v():
    t = torch.tensor([0.1, 0.6, 0.97], **F64)
    eps = normal(generators(range(3), "eps"), (1, 2, 2), **F64)
    for schedule, parameterization in ((Rectified(), Flow()), (VP(), V())):
        loss = SDS(Gaussian(schedule, parameterization), about(0.4))
        level = schedule.level(t, points())
        x_t = level.perturb(points(), eps)
        residual = loss.residual(points(), x_t, level, eps)
        output = loss.model.output(x_t, level, about(0.4, 0.4, 0.4))
        if isinstance(schedule, Rectified):  # eps_hat - eps = (1 - t)(v_hat - (eps - x_0))
            other = level.alpha * (output - (eps - points()))
        else:  # eps_hat = alpha v_hat + sigma x_t
            other = level.alpha * output + level.sigma * x_t - eps
        torch.testing.assert_close(residual, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("weight", [SigmaSquared(), AlphaSigmaSquared(), Constant(3.0)])
def test_weight_scales_the_gradient_and_not_the_value(weight):
    model, t_law = Gaussian(), UniformLaw()
    g, value = gradient(SDS(model, about(1.0), weight=weight, t_law=t_law), points())
    plain, same = gradient(SDS(model, about(1.0), weight=Constant(), t_law=t_law), points())
    alpha, sigma = model.schedule(t_law(uniform(generators(range(3), "noise")), 0.0))
    w = {SigmaSquared: sigma**2, AlphaSigmaSquared: alpha * sigma**2}
    w = w.get(type(weight), torch.full_like(sigma, 3.0))
    torch.testing.assert_close(g, w.reshape(-1, 1, 1, 1) * plain, rtol=1e-12, atol=0)
    assert torch.equal(value, same)


def test_a_row_never_depends_on_the_rows_beside_it():
    loss = SDS(Gaussian(), about(1.0), negative=about(0.0), scale=30.0)
    together, value = gradient(loss, points(4), rng=generators(range(4), "noise"))
    values = loss.last.values
    assert torch.equal(value, values.mean())
    for i in range(4):
        alone, v = gradient(loss, points(4)[i : i + 1], rng=generators([i], "noise"))
        assert torch.equal(together[i], alone[0])
        assert torch.equal(values[i], v)
    # a huge or broken neighbour changes nothing either
    broken = points(4)
    broken[2] = torch.nan
    others, _ = gradient(loss, broken, rng=generators(range(4), "noise"))
    assert torch.equal(others[[0, 1, 3]], together[[0, 1, 3]])
    assert others[2].isnan().all()


def test_the_loss_has_the_gradient_that_optimize_asks_for():
    first, second = (SDS(Gaussian(), about(1.0)) for _ in range(2))
    g, value = gradient(first, points())
    assert torch.equal(second.gradient(points().requires_grad_()), g)
    assert torch.equal(second.last.values.mean(), value)
    assert torch.equal(second.last.gradient, g)
    assert not second.last.gradient.requires_grad
    assert not g.requires_grad


def test_gradient_goes_on_through_what_made_x_0():
    theta = torch.tensor(0.5, **F64, requires_grad=True)
    loss = SDS(Gaussian(), about(1.0), t_law=at(400))
    (2 * loss((theta * 3).expand(1, 1, 2, 2), rng=generators([0], "noise"))).backward()
    g, _ = gradient(loss, torch.full((1, 1, 2, 2), 1.5, **F64), rng=generators([0], "noise"))
    torch.testing.assert_close(theta.grad, 2 * 3 * g.sum(), rtol=1e-12, atol=0)


def test_dtype_of_the_gradient_is_that_of_x_0():
    for dtype in (torch.bfloat16, torch.float32):
        g, value = gradient(SDS(Gaussian(), about(1.0)), points().to(dtype))
        assert (g.dtype, value.dtype) == (dtype, torch.float32)


def test_no_graph_goes_through_the_network():
    model = Gaussian()
    model.register_parameter("weight", nn.Parameter(torch.ones(1, **F64)))
    plain = model.output
    model.output = lambda x, level, c: model.weight * plain(x, level, c)
    loss = SDS(model, about(1.0))
    x_0 = points().requires_grad_()
    value = loss(x_0)
    assert model.graphs == [False]
    assert not loss.last.values.requires_grad
    value.backward()
    assert model.weight.grad is None


def test_without_a_gradient_it_is_just_the_value():
    loss = SDS(Gaussian(), about(1.0))
    assert not loss(points()).requires_grad


@pytest.mark.parametrize(("scale", "rows"), [(1.0, 3), (0.0, 3), (30.0, 6)])
def test_rows_without_a_weight_are_not_computed(scale, rows):
    model = Gaussian()
    SDS(model, about(1.0), negative=about(0.0) if scale != 1 else None, scale=scale)(points())
    assert model.rows == [rows]


def test_its_own_generators_go_on_from_call_to_call():
    first, second = (SDS(Gaussian(), about(1.0)) for _ in range(2))
    a, b = gradient(first, points())[0], gradient(first, points())[0]
    assert not torch.equal(a, b)
    assert torch.equal(gradient(second, points(1))[0], a[:1])  # more rows later, the same seeds
    assert torch.equal(gradient(second, points())[0][:1], b[:1])
    rng = generators(range(3), "noise")
    assert torch.equal(gradient(first, points(), rng=rng)[0], a)


def test_progress_reaches_the_law_of_t():
    seen = []

    def law(u, progress):
        seen.append(progress)
        return u * 0 + 0.5

    loss = SDS(Gaussian(), about(1.0), t_law=law)
    loss(points(), progress=0.75)
    assert seen == [0.75]
    assert loss.last.t.tolist() == [0.5] * 3
    assert loss.last.t.dtype == torch.float64


# What it converges to


@pytest.mark.parametrize("index", [50, 400, 900])
@pytest.mark.parametrize("x_0", [-0.7, 0.3, 2.0])
def test_mean_and_variance_on_a_gaussian(index, x_0):
    m, s = 0.3, 0.5
    alpha, sigma = alpha_sigma(index)
    mean, variance = gaussian_moments(x_0, m, s, alpha, sigma, sigma**2)
    loss = SDS(Gaussian(), about(m, s=s), t_law=at(index))
    # exactly: G is linear in eps
    eps, weight = normal_nodes(4)
    rows = torch.full((4, 1, 1, 1), x_0, **F64)
    level = loss.model.level(index / (STEPS - 1), rows)
    eps = eps.reshape(-1, 1, 1, 1)
    g = loss.weight(level) * loss.residual(rows, level.perturb(rows, eps), level, eps)
    first, second = (float((g.flatten() ** k * weight).sum()) for k in (1, 2))
    assert first == pytest.approx(float(mean), abs=1e-10)
    assert second - first**2 == pytest.approx(float(variance), abs=1e-10)
    # and as it is drawn: n elements, within four standard errors (seed 0)
    n = 20_000
    g, _ = gradient(loss, torch.full((1, 1, 100, n // 100), x_0, **F64))
    error = float((variance / n).sqrt())
    assert abs(float(g.mean() - mean)) < 4 * error
    assert float(g.var()) == pytest.approx(float(variance), rel=4 * (2 / n) ** 0.5)


def mixture_loss(**options):
    means = [[m] for m in MEANS]
    mixture = Mixture(means=means, std=list(STDS), weights=list(WEIGHTS))
    model = mixture.under(Discrete(stable_diffusion_table()))
    return SDS(model, **options)


@pytest.mark.parametrize(
    ("weight", "w"), [(SigmaSquared(), lambda a, s: s**2), (Constant(), lambda a, s: s * 0 + 1)]
)
def test_expected_gradient_is_that_of_the_weighted_divergence(weight, w):
    indices = list(range(20, 980, 40))
    alpha, sigma = alpha_sigma(indices)
    x_0 = torch.tensor([-1.3, -0.6, 0.0, 0.8, 1.5], **F64)
    truth = []
    for x in x_0:
        x = x.clone().requires_grad_()
        kl = weighted_kl(x, alpha, sigma, w(alpha, sigma)) / len(indices)
        truth.append(torch.autograd.grad(kl, x)[0])
    found = expected(mixture_loss(weight=weight), x_0, indices, order=80)
    torch.testing.assert_close(found, torch.stack(truth), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("indices", "fixed"), FIXED_POINTS.items(), ids=str)
def test_where_a_mixture_is_left_depends_on_the_times(indices, fixed):
    loss = mixture_loss()
    found = rests(lambda x: expected(loss, x, list(indices)), -1.2, 1.2, 8)
    assert found == pytest.approx(fixed, abs=6e-4)


@pytest.mark.parametrize("scale", [1.0, 7.5, 100.0])
def test_fixed_point_of_guidance(scale):
    alpha, sigma = alpha_sigma(400)
    truth = float(guided_fixed_point(scale, 1.0, 0.3, 1.0, alpha, sigma))
    negative = None if scale == 1 else about(0.0, s=1.0)
    loss = SDS(Gaussian(), about(1.0, s=0.3), negative=negative, scale=scale)
    (found,) = rests(lambda x: expected(loss, x, [400], order=8), -1.0, 4.0, 5)
    assert found == pytest.approx(truth, abs=1e-9)
    assert found == pytest.approx({1.0: 1.0, 7.5: 2.136, 100.0: 2.548}[scale], abs=5e-4)


def test_a_spread_collapses():
    s, tau = 0.5, torch.tensor([-1.0, 0.2, 0.5, 3.0], **F64)
    for index in (50, 400, 900):
        alpha, sigma = alpha_sigma(index)
        loss = SDS(Gaussian(), about(0.7, s=s))
        found = expected(loss, 0.7 + tau, [index], order=8)
        torch.testing.assert_close(found, collapse(tau, s, alpha, sigma, sigma**2))
        assert (found * tau > 0).all()


# Priors, prompts and what is refused


class Text(nn.Module):
    """'+1.5' is the mean 1.5, '' the mean 0."""

    def __init__(self):
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.ones(1)))

    def forward(self, prompts):
        return about(*(float(p or 0) for p in prompts))


def test_a_prior_reads_prompts_once_and_can_drop_its_text_encoder():
    prior = Prior(Gaussian(), Codec(channels=1), Text())
    loss = SDS(prior, "1.5", scale=30.0)
    other = SDS(prior.score, about(1.5), negative=about(0.0), scale=30.0)
    assert torch.equal(gradient(loss, points())[0], gradient(other, points())[0])
    assert not any(isinstance(module, Text) for module in loss.modules())
    prior.drop_text()
    gc.collect()
    assert torch.isfinite(loss(points()))
    rows = SDS(prior.score, about(1.0, 2.0, 3.0))
    assert len(gradient(rows, points())[0]) == 3
    negative = SDS(prior, "1.5", negative="", scale=30.0)  # "" is known already
    assert negative.null["m"].item() == 0


def test_unconditional_models_need_no_prompt():
    for model in (Prior(Gaussian(), Codec(channels=1)), Gaussian()):
        loss = SDS(model)
        assert torch.isfinite(loss(points()))
        assert loss.model.rows == [3]


def test_a_prompt_a_row():
    prior = Prior(Gaussian(), Codec(channels=1), Text())
    together = gradient(SDS(prior, ["1", "2", "3"], scale=5.0), points())[0]
    rng = generators([1], "noise")
    alone = gradient(SDS(prior, "2", scale=5.0), points()[1:2], rng=rng)[0]
    assert torch.equal(together[1], alone[0])


REFUSED = {
    "scale nan": (lambda: SDS(Gaussian(), about(1.0), scale=float("nan")), "finite"),
    "scale inf": (lambda: SDS(Gaussian(), about(1.0), scale=float("inf")), "finite"),
    "negative without a scale": (
        lambda: SDS(Prior(Gaussian(), Codec(channels=1), Text()), "1", negative="2"),
        "no effect",
    ),
    "scale without a prompt": (
        lambda: SDS(Prior(Gaussian(), Codec(channels=1), Text()), scale=30.0),
        "no prompt",
    ),
    "no null": (lambda: SDS(Gaussian(), about(1.0), scale=30.0), "negative="),
    "text for a bare model": (lambda: SDS(Gaussian(), "a red heart"), "reads no text"),
    "text for a model without": (
        lambda: SDS(Prior(Gaussian(), Codec(channels=1)), "a red heart"),
        "prompt",
    ),
    "times reversed": (lambda: UniformLaw(t_min=0.98, t_max=0.02), "0.98"),
    "generators": (lambda: SDS(Gaussian())(points(), rng=generators([0], "noise")), "a row"),
    "rows": (lambda: SDS(Gaussian(), about(1.0, 2.0))(points()), "rows"),
    "shape": (lambda: SDS(Gaussian(shape=(3, 2, 2)))(points()), "shape"),
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


def test_a_loss_is_a_file_and_says_what_it_is():
    assert "sds" in _plugins.names("sdstoolkit.distill")
    assert "weights" not in _plugins.names("sdstoolkit.distill")
    loss = SDS(Gaussian(), about(1.0), negative=about(0.0), scale=30)
    described = loss.describe()
    assert described["name"] == "SDS"
    assert described["scale"] == 30.0
    assert described["weight"] == "SigmaSquared()"
    assert isinstance(loss, Distiller)
    assert isinstance(loss.model, ScoreModel)
