"""The adapters against the pipelines they read, on tiny random models.

    ours(x_t, t = k / (T - 1))  =  what the unmodified pipeline and DDIMScheduler make of it

Every check below is also shown to fail on deliberate mistakes (`MISTAKES`): a wrong table, a
swapped guidance, a sign.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from sdstoolkit.adapters import BUNDLED, load
from sdstoolkit.adapters._checkpoint import quiet
from sdstoolkit.adapters._diffusers import TABLES, alphas_cumprod, read_scheduler
from sdstoolkit.adapters.callable import CallableScore
from sdstoolkit.condition import Condition
from sdstoolkit.noise import VE, VP, Discrete, NoiseLevel, Rectified
from sdstoolkit.prediction import Epsilon, Flow, Parameterization, Prediction, Sample, Score, V
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel, combine

PROMPTS = ["a red heart", "blue, and don't"]
LATENT = ("sd_epsilon", "sd_v", "sd_zsnr", "sd_sample")
PIXEL = ("ddpm_epsilon", "ddpm_sample", "ddpm_v")
STEPS = (1, 250, 501, 750, 998)


# --- the oracles


@functools.cache
def pipeline(kind: str | Path) -> Any:
    """The unmodified pipeline of a tiny folder (or of any other)."""
    folder = tiny_models.folder(kind) if isinstance(kind, str) else kind
    with quiet():
        from diffusers import DDPMPipeline, StableDiffusionPipeline

        cls = DDPMPipeline if kind in PIXEL else StableDiffusionPipeline
        opened = cls.from_pretrained(folder, use_safetensors=True)
    opened.set_progress_bar_config(disable=True)
    return opened


@functools.cache
def scheduler(kind: str, *, steps: int = 1000) -> Any:
    """A DDIMScheduler over the folder's own config, without clipping."""
    from diffusers import DDIMScheduler

    ddim = DDIMScheduler.from_config(dict(pipeline(kind).scheduler.config), clip_sample=False)
    ddim.set_timesteps(steps)
    return ddim


def opened(kind: str, **options: Any) -> Prior:
    return load(tiny_models.folder(kind), **options)


def state(prior: Prior, n: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *prior.score.shape, generator=generator, dtype=torch.float64).to(dtype)


def conditions(prior: Prior) -> tuple[Condition, Condition]:
    if prior.text is None:
        return Condition(), Condition()
    return prior.condition(PROMPTS), prior.condition("")


def raw_output(kind: str, x_t: Tensor, k: int) -> Tensor:
    """What the pipeline's own network returns at an integer step."""
    pipe = pipeline(kind)
    with torch.no_grad():
        if kind in PIXEL:
            return pipe.unet(x_t, k).sample
        text, _ = pipe.encode_prompt(PROMPTS, "cpu", 1, False)
        return pipe.unet(x_t, k, encoder_hidden_states=text).sample


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, by the largest of theirs."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


# --- the checks; each takes a prior, so that a mistake can be put into it


def check_table(prior: Prior, kind: str) -> None:
    """The squares of alpha and sigma are the scheduler's at every entry of its table."""
    table = scheduler(kind).alphas_cumprod.double()
    alpha, sigma = prior.schedule(torch.linspace(0, 1, len(table), dtype=torch.float64))
    assert error(alpha.square(), table) < 1e-6
    assert error(sigma.square(), 1 - table) < 1e-6


def check_x_0(prior: Prior, kind: str) -> None:
    """x_0 is the scheduler's pred_original_sample."""
    ddim, x_t = scheduler(kind), state(prior)
    last = [999] if kind == "sd_zsnr" else []
    for k in (*STEPS, *last):
        theirs = ddim.step(raw_output(kind, x_t, k), k, x_t).pred_original_sample
        with torch.no_grad():
            ours = prior.score(x_t, k / 999, conditions(prior)[0]).x_0
        assert error(ours, theirs) < 1e-5, k


def check_step(prior: Prior, kind: str) -> None:
    """x_s = alpha_s x_0 + sigma_s eps is DDIMScheduler.step."""
    ddim, x_t = scheduler(kind, steps=10), state(prior)
    for k in (901, 501, 201):
        theirs = ddim.step(raw_output(kind, x_t, k), k, x_t).prev_sample
        with torch.no_grad():
            prediction = prior.score(x_t, k / 999, conditions(prior)[0])
        assert error(ddim_step(prior, prediction, k - 100), theirs) < 1e-5, k


def check_time(prior: Prior, kind: str) -> None:
    """Integer steps are the network's own; between two the output goes smoothly across."""
    x_t, (condition, _) = state(prior), conditions(prior)

    def out(k: float) -> Tensor:
        with torch.no_grad():
            level = prior.score.level(k / 999, x_t)
            return prior.score.outputs(x_t, level, [condition])[0]

    for k in (0, 500, 998):
        low, high = out(k), out(k + 1)
        assert torch.equal(low, raw_output(kind, x_t, k)), k
        cell = (high - low).abs().max()
        assert (out(k + 0.01) - low).abs().max() < 0.05 * cell, k
        assert (out(k + 0.5) - (low + high) / 2).abs().max() < 0.4 * cell, k


def check_text(prior: Prior, kind: str) -> None:
    """The condition is what the pipeline's encode_prompt gives."""
    prompts = [*PROMPTS, ""]
    theirs, null = pipeline(kind).encode_prompt(prompts, "cpu", 1, True)
    ours = prior.condition(prompts)["text"]
    assert error(ours, theirs) < 1e-5
    assert error(prior.condition("")["text"], null[:1]) < 1e-5


def check_run(prior: Prior, kind: str) -> None:
    """Four guided DDIM steps from the same latents give the pipeline's latents and its image."""
    check_pipeline(prior, pipeline(kind), PROMPTS, scale=3.0, steps=4)


def check_pipeline(
    prior: Prior, pipe: Any, prompts: list[str], *, scale: float, steps: int
) -> None:
    from diffusers import DDIMScheduler

    original, x_t = pipe.scheduler, state(prior)
    pipe.scheduler = DDIMScheduler.from_config(dict(original.config), clip_sample=False)
    try:
        theirs, image = (
            pipe(
                prompts,
                num_inference_steps=steps,
                guidance_scale=scale,
                latents=x_t.clone(),
                output_type=kind,
            ).images
            for kind in ("latent", "pt")
        )
        visited = [int(k) for k in pipe.scheduler.timesteps]
        ends_clean = pipe.scheduler.config.set_alpha_to_one
    finally:
        pipe.scheduler = original
    condition, null = prior.condition(prompts), prior.condition("")
    with torch.no_grad():
        for k, following in zip(visited, [*visited[1:], 0], strict=True):
            prediction = guided(prior, x_t, k, condition, null, scale)
            x_t = ddim_step(prior, prediction, following)
        x_t = prediction.x_0 if ends_clean else x_t
        ours = prior.codec.decode(x_t)
    assert error(x_t, theirs) < 1e-4
    assert error(ours.clamp(0, 1), image) < 1e-4


def check_encode(prior: Prior, kind: str) -> None:
    """Encoding is the posterior's mode times the scaling factor: nothing is drawn."""
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    vae = pipeline(kind).vae
    with torch.no_grad():
        theirs = vae.encode(2 * image - 1).latent_dist.mode() * vae.config.scaling_factor
        assert error(prior.codec.encode(image), theirs) < 1e-5


def guided(
    prior: Prior, x_t: Tensor, k: int, condition: Condition, null: Condition, scale: float
) -> Prediction:
    """Classifier-free guidance, eps_null + scale (eps_cond - eps_null)."""
    return combine(prior.score, x_t, k / 999, [condition, null], [scale, 1 - scale])


def ddim_step(prior: Prior, prediction: Prediction, k: int) -> Tensor:
    return prior.schedule.level(k / 999, prediction.x_t).perturb(prediction.x_0, prediction.eps)


def check_pixel_run(prior: Prior, kind: str) -> None:
    """Four steps of DDIMPipeline from the same noise give its image."""
    from diffusers import DDIMPipeline, DDIMScheduler

    ddim = DDIMScheduler.from_config(dict(pipeline(kind).scheduler.config), clip_sample=False)
    pipe = DDIMPipeline(pipeline(kind).unet, ddim)
    pipe.set_progress_bar_config(disable=True)
    rng, step, states = torch.Generator().manual_seed(0), pipe.scheduler.step, []

    def watched(*args: Any, **options: Any) -> Any:  # the image is clamped, the states are not
        states.append(step(*args, **options))
        return states[-1]

    pipe.scheduler.step = watched
    image = pipe(2, generator=rng, num_inference_steps=4, output_type="np").images
    x_t = torch.randn(2, *prior.score.shape, generator=torch.Generator().manual_seed(0))
    visited = [int(k) for k in pipe.scheduler.timesteps]
    with torch.no_grad():
        for k, following in zip(visited, [*visited[1:], 0], strict=True):
            prediction = prior.score(x_t, k / 999, None)
            x_t = ddim_step(prior, prediction, following)
        x_t = prediction.x_0 if pipe.scheduler.config.set_alpha_to_one else x_t
        ours = prior.codec.decode(x_t).clamp(0, 1)
    assert len(states) == 4 and error(x_t, states[-1].prev_sample) < 1e-4
    assert error(ours, torch.from_numpy(image).permute(0, 3, 1, 2)) < 1e-4


CHECKS = (check_table, check_x_0, check_step, check_time, check_text, check_run, check_encode)


@pytest.mark.parametrize("kind", LATENT)
@pytest.mark.parametrize("check", CHECKS)
def test_stable_diffusion(check: Callable[[Prior, str], None], kind: str) -> None:
    check(opened(kind), kind)


@pytest.mark.parametrize("kind", PIXEL)
@pytest.mark.parametrize("check", (*CHECKS[:4], check_pixel_run))
def test_pixel_model(check: Callable[[Prior, str], None], kind: str) -> None:
    check(opened(kind), kind)


# --- deliberate mistakes, each caught


class NegatedV(V):
    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        a, b = super().coefficients(level)
        return -a, -b


def at(change: Callable[[Tensor], Tensor]) -> Callable[[Prior, pytest.MonkeyPatch], None]:
    def apply(prior: Prior, patch: pytest.MonkeyPatch) -> None:
        steps = prior.schedule.steps
        prior.score.inputs = lambda x_t, level: (x_t, change(level.t * (steps - 1)))

    return apply


def table(**config: Any) -> Callable[[Prior, pytest.MonkeyPatch], None]:
    def apply(prior: Prior, patch: pytest.MonkeyPatch) -> None:
        prior.score.schedule = Discrete(alphas_cumprod({"num_train_timesteps": 1000, **config}))

    return apply


def returns(other: Parameterization) -> Callable[[Prior, pytest.MonkeyPatch], None]:
    def apply(prior: Prior, patch: pytest.MonkeyPatch) -> None:
        prior.score.parameterization = other

    return apply


def guides(change: Callable[..., tuple[Any, ...]]) -> Callable[[Prior, pytest.MonkeyPatch], None]:
    def apply(prior: Prior, patch: pytest.MonkeyPatch) -> None:
        patch.setitem(globals(), "guided", lambda *args: GUIDED(*args[:3], *change(*args[3:])))

    return apply


def decodes_unscaled(prior: Prior, patch: pytest.MonkeyPatch) -> None:
    honest, scale = prior.codec.decode, prior.codec.autoencoder.config.scaling_factor
    patch.setattr(prior.codec, "decode", lambda x_0: honest(x_0 * scale))


def encodes_unscaled(prior: Prior, patch: pytest.MonkeyPatch) -> None:
    honest, scale = prior.codec.encode, prior.codec.autoencoder.config.scaling_factor
    patch.setattr(prior.codec, "encode", lambda image: honest(image) / scale)


def samples_posterior(prior: Prior, patch: pytest.MonkeyPatch) -> None:
    vae = prior.codec.autoencoder
    patch.setattr(
        prior.codec,
        "encode",
        lambda image: vae.encode(2 * image - 1).latent_dist.sample() * vae.config.scaling_factor,
    )


def encodes_01(prior: Prior, patch: pytest.MonkeyPatch) -> None:
    honest = prior.codec.encode
    patch.setattr(prior.codec, "encode", lambda image: honest((image + 1) / 2))


def pads_short(prior: Prior, patch: pytest.MonkeyPatch) -> None:
    prior.text.reader.length = 12


def pads_with_zero(prior: Prior, patch: pytest.MonkeyPatch) -> None:
    prior.text.reader.tokenizer.pad_token = "!"


def skips_last_norm(prior: Prior, patch: pytest.MonkeyPatch) -> None:
    prior.text.reader.encoder.final_layer_norm = torch.nn.Identity()


GUIDED = guided
SCALED_LINEAR = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LINEAR = SCALED_LINEAR | {"beta_schedule": "linear"}
ANOTHER = SCALED_LINEAR | {"beta_end": 0.0121}
MISTAKES = {
    "decodes without the scaling factor": ("sd_epsilon", decodes_unscaled, check_run),
    "encodes without the scaling factor": ("sd_epsilon", encodes_unscaled, check_encode),
    "draws from the posterior": ("sd_epsilon", samples_posterior, check_encode),
    "encodes [0, 1] as it is": ("sd_epsilon", encodes_01, check_encode),
    "v with the other sign": ("sd_v", returns(NegatedV()), check_x_0),
    "epsilon read for v": ("sd_v", returns(Epsilon()), check_x_0),
    "v read for epsilon": ("sd_epsilon", returns(V()), check_x_0),
    "flow read for v": ("sd_v", returns(Flow()), check_step),
    "epsilon read for sample": ("ddpm_sample", returns(Epsilon()), check_step),
    "the step is off by one": ("sd_epsilon", at(lambda k: k + 1), check_x_0),
    "the step is k / T": ("sd_epsilon", at(lambda k: k * 1000 / 999), check_x_0),
    "the step is cut to an integer": ("sd_epsilon", at(torch.floor), check_time),
    "the step is rounded to bfloat16": ("sd_v", at(lambda k: k.bfloat16().double()), check_time),
    "the network is given t in [0, 1]": ("ddpm_epsilon", at(lambda k: k / 999), check_time),
    "the table is linear": ("sd_epsilon", table(**LINEAR), check_table),
    "the table's zero SNR is ignored": ("sd_zsnr", table(**SCALED_LINEAR), check_table),
    "the table is another's": ("sd_epsilon", table(**ANOTHER), check_step),
    "cond and uncond are swapped": ("sd_epsilon", guides(lambda c, u, s: (u, c, s)), check_run),
    "guidance + 1": ("sd_epsilon", guides(lambda c, u, s: (c, u, s + 1)), check_run),
    "no guidance": ("sd_zsnr", guides(lambda c, u, s: (c, u, 1.0)), check_run),
    "the prompt is padded short": ("sd_epsilon", pads_short, check_text),
    "the padding is another token": ("sd_epsilon", pads_with_zero, check_text),
    "the text's last norm is left out": ("sd_epsilon", skips_last_norm, check_text),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, apply, check = MISTAKES[mistake]
    prior = opened(kind)  # every check passes on it, above
    apply(prior, monkeypatch)
    with pytest.raises(AssertionError):
        check(prior, kind)


# --- precision, batches, gradients


@pytest.mark.parametrize("kind", (*LATENT, *PIXEL))
def test_float64_is_exact(kind: str) -> None:
    prior = opened(kind, dtype=torch.float64)
    ddim, x_t = scheduler(kind), state(prior, dtype=torch.float64)
    table = prior.schedule.alphas_cumprod
    for k in STEPS:
        with torch.no_grad():
            prediction = prior.score(x_t, k / 999, conditions(prior)[0])
            (out,) = prior.score.outputs(x_t, prediction.level, [conditions(prior)[0]])
        ddim.alphas_cumprod, held = table, ddim.alphas_cumprod
        theirs = ddim.step(out, k, x_t).pred_original_sample
        ddim.alphas_cumprod = held
        assert prediction.x_0.dtype == torch.float64
        assert error(prediction.x_0, theirs) < 1e-12


@pytest.mark.parametrize("kind", ("sd_v", "ddpm_epsilon"))
def test_bfloat16_network_keeps_float64_state(kind: str) -> None:
    prior, half = opened(kind), opened(kind, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    x_t, t = state(prior, dtype=torch.float64), torch.tensor([0.3, 0.7501])
    with torch.no_grad():
        exact = prior.score(x_t, t, conditions(prior)[0])
        rough = half.score(x_t, t, conditions(half)[0])
    assert rough.x_0.dtype == rough.eps.dtype == rough.level.t.dtype == torch.float64
    assert error(rough.level.perturb(rough.x_0, rough.eps), x_t) < 1e-12
    assert 0 < error(rough.eps, exact.eps) < 0.05


@pytest.mark.parametrize("kind", ("sd_zsnr", "ddpm_sample"))
def test_rows_do_not_depend_on_the_batch(kind: str) -> None:
    prior = opened(kind)
    x_t, t = state(prior, n=3), torch.tensor([0.1, 0.5, 0.93], dtype=torch.float64)
    prompts = ["a red heart", "blue", "a heart"]
    batch = prior.condition(prompts) if prior.text else None
    with torch.no_grad():
        together = prior.score(x_t, t, batch)
        for i in range(3):
            condition = prior.condition(prompts[i]) if prior.text else None
            alone = prior.score(x_t[i : i + 1], t[i : i + 1], condition)
            assert error(together.x_0[i : i + 1], alone.x_0) < 1e-5


@pytest.mark.parametrize("kind", ("sd_epsilon", "ddpm_epsilon"))
def test_distillation_gradient_reaches_the_pixels(kind: str) -> None:
    prior = opened(kind)
    h, w = prior.size
    image = torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(2)).requires_grad_()
    x_0 = prior.codec.encode(image)
    eps = state(prior)
    level = prior.schedule.level(0.4, x_0)
    x_t = level.perturb(x_0.detach(), eps)
    with torch.no_grad():
        condition, null = conditions(prior)
        prediction = combine(prior.score, x_t, level, [condition, null], [30.0, -29.0])
    x_0.backward(prediction.eps - eps)
    assert image.grad is not None and bool(image.grad.isfinite().all())
    assert bool((image.grad.flatten(1).abs().amax(dim=1) > 1e-4).all())
    assert all(p.grad is None for p in prior.parameters())


def test_zero_terminal_snr_starts_from_pure_noise() -> None:
    prior = opened("sd_zsnr")
    x_t = state(prior)
    with torch.no_grad():
        prediction = prior.score(x_t, 1.0, prior.condition(PROMPTS))
    assert prediction.level.alpha.max().item() == 0
    assert error(prediction.eps, x_t) < 1e-6
    assert bool(prediction.x_0.isfinite().all())


# --- scheduler configs


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy 2 inside of diffusers
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("beta_schedule", ("linear", "scaled_linear", "squaredcos_cap_v2"))
def test_every_known_scheduler_gives_its_own_table(name: str, beta_schedule: str) -> None:
    import diffusers

    try:
        theirs = getattr(diffusers, name)(beta_schedule=beta_schedule, num_train_timesteps=100)
    except ImportError as missing:  # LMS needs scipy
        pytest.skip(str(missing))
    schedule, parameterization, *_ = read_scheduler({**theirs.config, "_class_name": name})
    table = theirs.alphas_cumprod.double()
    assert error(schedule.alphas_cumprod, table) < 1e-5
    assert parameterization == Epsilon()
    bare = {"_class_name": name, "num_train_timesteps": 100, "beta_schedule": beta_schedule}
    assert torch.equal(read_scheduler(bare)[0].alphas_cumprod, schedule.alphas_cumprod)


@pytest.mark.parametrize(
    "options", ({"rescale_betas_zero_snr": True}, {"beta_schedule": "sigmoid"})
)
def test_other_tables(options: dict[str, Any]) -> None:
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(**options)
    config = {**theirs.config, "_class_name": "DDPMScheduler"}
    ours = read_scheduler(config)[0].alphas_cumprod
    assert error(ours, theirs.alphas_cumprod.double()) < 1e-5
    assert (float(ours[-1]) == 0) == bool(options.get("rescale_betas_zero_snr"))


def test_trained_betas_are_honoured() -> None:
    from diffusers import DDIMScheduler

    betas = torch.linspace(0.01, 0.3, 20).tolist()
    theirs = DDIMScheduler(num_train_timesteps=20, trained_betas=betas)
    ours = read_scheduler({**theirs.config, "_class_name": "DDIMScheduler"})[0]
    assert ours.steps == 20
    assert error(ours.alphas_cumprod, theirs.alphas_cumprod.double()) < 1e-6


@pytest.mark.parametrize(
    ("config", "message"),
    (
        ({"prediction_type": "score"}, "prediction_type='score'.*epsilon, sample, v_prediction"),
        ({"_class_name": "TCDScheduler"}, "is a TCDScheduler, expected one of: .*PNDM.*EDMEuler"),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
            "prediction_type='epsilon', expected one of: flow_prediction",
        ),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0}, "has shift=0"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "invert_sigmas=True, expected False",
        ),
        (
            {"_class_name": "EDMEulerScheduler", "prediction_type": "sample"},
            "prediction_type='sample', expected one of: epsilon, v_prediction",
        ),
        (
            {"_class_name": "EDMEulerScheduler", "sigma_schedule": "linear"},
            "sigma_schedule='linear', expected one of: karras, exponential",
        ),
        ({"_class_name": None}, "is a None"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "continuous"),
        ({"_class_name": "PNDMScheduler", "rescale_betas_zero_snr": True}, "PNDM.* ignores"),
        ({"beta_schedule": "laplace"}, "beta_schedule='laplace'.*squaredcos_cap_v2"),
        ({"beta_start": None}, "beta_start=None"),
        ({"beta_end": 1.5}, r"expected all in \(0, 1\)"),
        ({"beta_start": -0.1}, r"expected all in \(0, 1\)"),
        ({"num_train_timesteps": 1}, "num_train_timesteps=1"),
        ({"trained_betas": [0.1, 0.2]}, "2 trained_betas and num_train_timesteps=1000"),
    ),
)
def test_unknown_scheduler_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_scheduler({"_class_name": "DDIMScheduler", **config})


# --- any callable


@pytest.mark.parametrize(
    ("schedule", "parameterization"),
    (
        (VP(), Epsilon()),
        (VE(sigma_min=0.01, sigma_max=10.0), Score()),
        (Rectified(), Flow()),
        (VP(), V()),
        (VP(), Sample()),
    ),
)
def test_callable_of_a_gaussian(schedule: Any, parameterization: Parameterization) -> None:
    """For x_0 ~ N(0, s^2) the posterior mean is alpha s^2 x_t / (alpha^2 s^2 + sigma^2)."""
    s = 0.7

    def exact(x_t: Tensor, t: Tensor) -> tuple[NoiseLevel, Tensor, Tensor]:
        level = schedule.level(t, x_t)
        x_0 = level.alpha * s**2 * x_t / (level.alpha**2 * s**2 + level.sigma**2)
        return level, x_0, (x_t - level.alpha * x_0) / level.sigma

    def f(x_t: Tensor, t: Tensor, condition: Condition | None) -> Tensor:
        level, x_0, eps = exact(x_t, t)
        return parameterization.target(x_0, eps, level)

    model = CallableScore(f, schedule=schedule, parameterization=parameterization, shape=(3, 2))
    x_t = torch.randn(4, 3, 2, dtype=torch.float64)
    t = torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64)
    _, x_0, eps = exact(x_t, t)
    prediction = model(x_t, t)
    torch.testing.assert_close(prediction.x_0, x_0, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(prediction.eps, eps, rtol=1e-9, atol=1e-12)


def test_callable_is_given_the_condition_and_keeps_its_mode() -> None:
    network = torch.nn.Linear(2, 2).bfloat16()
    seen: list[tuple[torch.dtype, torch.dtype, int]] = []

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            seen.append((x_t.dtype, t.dtype, condition.rows))
            return self.inner(x_t) + condition["label"]

    model = CallableScore(Network(), schedule=VP(), parameterization=Epsilon(), shape=(2,))
    assert model.training and all(p.requires_grad for p in model.parameters())
    prediction = model(torch.zeros(3, 2), 0.5, Condition({"label": torch.ones(1, 2)}))
    assert seen == [(torch.bfloat16, torch.float64, 3)]
    assert prediction.eps.dtype == torch.float32
    prediction.eps.sum().backward()
    assert network.weight.grad is not None


@pytest.mark.parametrize("shape", ((), (3, 0)))
def test_callable_needs_a_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected the positive sizes"):
        CallableScore(
            lambda x_t, t, condition: x_t, schedule=VP(), parameterization=Epsilon(), shape=shape
        )


@pytest.mark.parametrize("wrong", (lambda x, t, c: x[:1], lambda x, t, c: None))
def test_callable_returns_a_state(wrong: Callable[..., Any]) -> None:
    model = CallableScore(wrong, schedule=VP(), parameterization=Epsilon(), shape=(2,))
    with pytest.raises(ValueError, match="returned"):
        model(torch.zeros(3, 2), 0.5)


# --- conditions


def test_stable_diffusion_asks_for_a_prompt() -> None:
    prior = opened("sd_epsilon")
    for nothing in (None, Condition()):
        with pytest.raises(ValueError, match="expected text.*prior.condition"):
            prior.score(state(prior), 0.5, nothing)


def test_pixel_model_takes_no_condition() -> None:
    prior = opened("ddpm_epsilon")
    with pytest.raises(ValueError, match="unconditional"):
        prior.condition("a red heart")
    with pytest.raises(ValueError, match="the model is unconditional"):
        prior.score(state(prior), 0.5, Condition({"text": torch.zeros(1, 3)}))


def test_long_prompt_is_refused_with_its_length() -> None:
    prior = opened("sd_epsilon")
    fits = "a " * 14
    assert prior.condition(fits)["text"].shape == (1, 16, 16)
    with pytest.raises(ValueError, match="has 17 tokens .* at most 16"):
        prior.condition(fits + "a")


def test_words_never_taught_are_named() -> None:
    prior = opened("sd_epsilon")
    reader = prior.text.reader
    tokenizer, table = reader.tokenizer, reader.encoder.get_input_embeddings().weight
    for letter in ("x", "q", "z</w>", ",</w>"):
        table[tokenizer.convert_tokens_to_ids(letter)] = 0
    from sdstoolkit.adapters.stable_diffusion import ClipText

    text = ClipText(prior.text.reader.encoder, tokenizer)
    with pytest.raises(ValueError, match="does not know: 'xyz', 'Jazz'.$"):
        text(["a heart", "a red xyz heart of Jazz and xyz"])
    with pytest.raises(ValueError, match="does not know: ','"):
        text(["a heart, red"])
    assert text(["", "a red heart"])["text"].shape == (2, 16, 16)


def test_unknown_token_is_a_word_never_taught() -> None:
    prior = opened("sd_epsilon")
    # stands for any word that the vocabulary lacks
    prior.text.reader.tokenizer.unk_token = "blue</w>"
    from sdstoolkit.adapters.stable_diffusion import ClipText

    text = ClipText(prior.text.reader.encoder, prior.text.reader.tokenizer)
    with pytest.raises(ValueError, match="does not know: 'blue'"):
        text(["a blue heart"])


# --- the bundled model


needs_shapes = pytest.mark.skipif(
    not (BUNDLED["shapes"] / "model_index.json").is_file(), reason="the bundled model is not there"
)


@needs_shapes
def test_shapes_sampled_by_the_unmodified_pipeline() -> None:
    check_pipeline(
        load("shapes"),
        pipeline(BUNDLED["shapes"]),
        ["a red heart on a white background", "a blue circle on a white background"],
        scale=3.0,
        steps=4,
    )


@needs_shapes
def test_shapes_names_the_words_it_does_not_know() -> None:
    prior = load("shapes")
    assert isinstance(prior.score, ScoreModel)
    with pytest.raises(ValueError, match="does not know: 'xylophone'"):
        prior.condition("a red xylophone on a white background")
