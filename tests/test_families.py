"""Every family of pretrained models against its own unmodified pipeline, on tiny random models.

    our guided network at (x_t, t)  =  what the pipeline hands to its scheduler
    our x_0                         =  the scheduler's pred_original_sample
    our step to the next level      =  the scheduler's
    our run from the same noise     =  the pipeline's latents and its image

and what every family owes on its own: rows that do not depend on each other, a network of less
precision than the state, a gradient that reaches the pixels, sizes that do not fit refused.
`MISTAKES` are put into the adapters on purpose, and each is caught by one of these checks.
"""

from collections.abc import Callable

import families
import pytest
import torch
from families import CASES, STEPS, Trace, error, noise, opened, original, state, trace, visited

from sdstoolkit.distill import SDS
from sdstoolkit.prior import Prior

Check = Callable[[Prior, str, Trace], None]


# --- the checks; each takes a prior, so that a mistake can be put into it


def check_output(prior: Prior, name: str, run: Trace) -> None:
    """At every step the guided output is the one that the pipeline hands to its scheduler."""
    case = CASES[name]
    condition, null = case.told(prior)
    model = case.guided(prior.score, null, case.scale)
    times = visited(run.pipeline.scheduler, prior.schedule)
    for i, step in enumerate(run.steps):
        x_t = state(step.sample, run.pipeline.scheduler, prior.schedule, i)
        with torch.no_grad():
            level = model.level(times[i], x_t)
            (ours,) = model.outputs(x_t, level, [condition])
        theirs = step.output[:, : prior.score.shape[0]]
        assert error(ours, theirs) < 1e-5, i


def check_x_0(prior: Prior, name: str, run: Trace) -> None:
    """x_0 is the scheduler's pred_original_sample; a flow's, what a step to no noise gives."""
    case = CASES[name]
    condition, null = case.told(prior)
    model = case.guided(prior.score, null, case.scale)
    scheduler = run.pipeline.scheduler
    times = visited(scheduler, prior.schedule)
    for i, step in enumerate(run.steps):
        x_t = state(step.sample, scheduler, prior.schedule, i)
        theirs = original(step, scheduler, i)
        with torch.no_grad():
            ours = model(x_t, times[i], condition).x_0
        assert error(ours, theirs) < 1e-5, i


def check_step(prior: Prior, name: str, run: Trace) -> None:
    """x_s = alpha_s x_0 + sigma_s eps is the scheduler's step."""
    case = CASES[name]
    condition, null = case.told(prior)
    model = case.guided(prior.score, null, case.scale)
    scheduler = run.pipeline.scheduler
    times = visited(scheduler, prior.schedule)
    for i, step in enumerate(run.steps):
        x_t = state(step.sample, scheduler, prior.schedule, i)
        with torch.no_grad():
            ours = _to(model(x_t, times[i], condition), prior, times[i + 1])
        theirs = state(step.following, scheduler, prior.schedule, i + 1)
        assert error(ours, theirs) < 1e-4, i


def check_run(prior: Prior, name: str, run: Trace) -> None:
    """Four guided steps from the pipeline's first sample give its latents and its image."""
    case = CASES[name]
    condition, null = case.told(prior)
    model = case.guided(prior.score, null, case.scale)
    scheduler = run.pipeline.scheduler
    times = visited(scheduler, prior.schedule)
    x_t = state(run.steps[0].sample, scheduler, prior.schedule, 0)
    with torch.no_grad():
        for i in range(STEPS):
            x_t = _to(model(x_t, times[i], condition), prior, times[i + 1])
        assert error(x_t, run.steps[-1].following) < 1e-3
        if run.image is not None:
            image = prior.codec.decode(x_t).clamp(0, 1)
            assert error(image, run.image.float()) < 1e-3


def _to(prediction, prior, t):
    """The step to a time, or to what is expected clean."""
    if t is None:
        return prediction.x_0
    level = prior.schedule.level(t, prediction.x_t)
    return level.perturb(prediction.x_0, prediction.eps)


CHECKS: tuple[Check, ...] = (check_output, check_x_0, check_step, check_run)


@pytest.mark.parametrize("name", CASES)
def test_is_the_pipeline(name: str) -> None:
    prior, run = opened(name), trace(name)
    for check in CHECKS:
        check(prior, name, run)


# --- what every family owes


@pytest.mark.parametrize("name", CASES)
def test_rows_do_not_depend_on_the_batch(name: str) -> None:
    prior = opened(name)
    condition, _ = CASES[name].told(prior)
    x_t, t = noise(prior), torch.tensor([0.2, 0.7], dtype=torch.float64)
    with torch.no_grad():
        together = prior.score(x_t, t, condition).eps
        for i in range(2):
            row = type(condition)({k: v[i : i + 1] for k, v in condition.expand(2).items()})
            alone = prior.score(x_t[i : i + 1], t[i : i + 1], row).eps
            assert error(together[i : i + 1], alone) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_network_keeps_a_float64_state(name: str) -> None:
    prior, half = opened(name), opened(name, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    x_t = noise(prior, dtype=torch.float64)
    with torch.no_grad():
        exact = prior.score(x_t, 0.5, CASES[name].told(prior)[0])
        rough = half.score(x_t, 0.5, CASES[name].told(half)[0])
    assert rough.x_0.dtype == rough.eps.dtype == rough.level.t.dtype == torch.float64
    assert error(rough.level.perturb(rough.x_0, rough.eps), x_t) < 1e-12
    assert 0 < error(rough.eps, exact.eps) < 0.2


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_distillation_reaches_the_pixels(name: str) -> None:
    prior = opened(name)
    case = CASES[name]
    condition, null = case.told(prior)
    h = w = case.size
    shape = (2, prior.codec.image_channels, h, w)
    image = torch.rand(shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
    x_0 = prior.codec.encode(image)
    assert x_0.shape[1:] == prior.score.shape
    loss = SDS(case.guided(prior.score, null, case.scale), condition, scale=1.0)(x_0)
    loss.backward()
    assert bool(loss.isfinite()) and image.grad is not None
    assert bool(image.grad.isfinite().all())
    assert bool((image.grad.flatten(1).abs().amax(dim=1) > 0).all())
    assert all(p.grad is None for p in prior.parameters())


@pytest.mark.parametrize("name", CASES)
def test_sizes_that_do_not_fit_are_refused(name: str) -> None:
    prior = opened(name)
    multiple = prior.codec.multiple * prior.codec.patch
    size = CASES[name].size
    assert prior.codec.patch == prior.score.patch
    if multiple > 1:
        image = torch.rand(1, prior.codec.image_channels, size + 1, size)
        with pytest.raises(ValueError, match=f"must be multiples of {multiple}"):
            prior.codec.encode(image)
    if prior.score.patch > 1:
        c, h, w = prior.score.shape
        condition = CASES[name].told(prior)[0]
        with pytest.raises(ValueError, match=f"that are multiples of {prior.score.patch}"):
            prior.score(torch.zeros(2, c, h + 1, w), 0.5, condition)
