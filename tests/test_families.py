"""Every family of pretrained models against its own unmodified pipeline, on tiny random models.

    our guided network at (x_t, t)  =  what the pipeline hands to its scheduler
    our x_0                         =  the scheduler's pred_original_sample
    our step to the next level      =  the scheduler's
    our run from the same noise     =  the pipeline's latents and its image

and what every family owes on its own: rows that do not depend on each other, a network of less
precision than the state, a gradient that reaches the pixels, sizes that do not fit refused.
`MISTAKES` are put into the adapters on purpose, and each is caught by one of these checks.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import pytest
import tiny_families
import torch
from families import CASES, STEPS, Trace, error, noise, opened, original, state, trace, visited

from sdstoolkit.adapters import flux, load, lumina_2
from sdstoolkit.adapters._network import Linear
from sdstoolkit.condition import Condition
from sdstoolkit.distill import SDS
from sdstoolkit.guidance import ClassifierFree, Extrapolated, InstructPix2Pix, RowNorm, TokenNorm
from sdstoolkit.prediction import Epsilon, Karras, V
from sdstoolkit.prior import Prior
from sdstoolkit.samplers._walk import Sampler
from sdstoolkit.samplers.consistency import Consistency
from sdstoolkit.samplers.ddim import DDIM
from sdstoolkit.samplers.predictor_corrector import PredictorCorrector

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
        if case.sampled is not None:
            x_t = case.sampled(prior, condition, x_t)
        else:
            for i in range(STEPS):
                x_t = _to(model(x_t, times[i], condition), prior, times[i + 1])
        assert error(x_t, run.steps[-1].following) < 1e-3
        if run.image is not None:
            image = prior.codec.decode(x_t).clamp(0, 1)
            assert error(image, run.image.float()) < 1e-3


def check_encode(prior: Prior, name: str, run: Trace) -> None:
    """There and back is the pipeline's own autoencoder there and back."""
    size, channels = CASES[name].size, prior.codec.image_channels
    image = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(4))
    parts = run.pipeline.components
    autoencoder = next((parts[key] for key in ("vae", "vqvae", "movq") if key in parts), None)
    with torch.no_grad():
        ours = prior.codec.decode(prior.codec.encode(image))
        if autoencoder is None:
            return torch.testing.assert_close(ours, image)
        picture = 2 * image - 1
        video = "Wan" in type(autoencoder).__name__ or "Qwen" in type(autoencoder).__name__
        code = autoencoder.encode(picture[:, :, None] if video else picture)
        if hasattr(code, "latent_dist"):
            code = code.latent_dist.mode()
        else:
            code = code.latents if hasattr(code, "latents") else code.latent
        plain = {"force_not_quantize": True} if "movq" in parts else {}
        theirs = autoencoder.decode(code, **plain).sample
    assert error(ours, (theirs[:, :, 0] if video else theirs) / 2 + 0.5) < 1e-5


def _to(prediction, prior, t):
    """The step to a time, or to what is expected clean."""
    if t is None:
        return prediction.x_0
    level = prior.schedule.level(t, prediction.x_t)
    return level.perturb(prediction.x_0, prediction.eps)


CHECKS: tuple[Check, ...] = (check_output, check_x_0, check_step, check_run, check_encode)


@pytest.mark.parametrize("name", CASES)
def test_is_the_pipeline(name: str) -> None:
    prior, run = opened(name), trace(name)
    for check in CHECKS:
        if check is check_step and CASES[name].sampled is not None:
            continue  # its scheduler's step draws: see the run, and below
        check(prior, name, run)


# --- what every family owes


@pytest.mark.parametrize("name", CASES)
def test_rows_do_not_depend_on_the_batch(name: str) -> None:
    prior = opened(name)
    condition, _ = CASES[name].told(prior)
    x_t, t = noise(prior, name), torch.tensor([0.2, 0.7], dtype=torch.float64)
    with torch.no_grad():
        together = prior.score(x_t, t, condition).eps
        for i in range(2):
            row = type(condition)({k: v[i : i + 1] for k, v in condition.expand(2).items()})
            alone = prior.score(x_t[i : i + 1], t[i : i + 1], row).eps
            assert error(together[i : i + 1], alone) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_time_is_not_cut_to_steps(name: str) -> None:
    """A tenth of a step of a table of 1000 is felt, and a tenth of it a tenth."""
    prior = opened(name, dtype=torch.float64)
    x_t, (condition, _) = noise(prior, name, dtype=torch.float64), CASES[name].told(prior)

    def out(t: float) -> torch.Tensor:
        with torch.no_grad():
            level = prior.score.level(t, x_t)
            return prior.score.outputs(x_t, level, [condition])[0]

    at, near, nearer = out(0.4), out(0.4 + 1e-4), out(0.4 + 1e-5)
    assert 0.05 < (nearer - at).norm() / (near - at).norm() < 0.2


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_network_keeps_a_float64_state(name: str) -> None:
    prior, half = opened(name), opened(name, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    x_t = noise(prior, name, dtype=torch.float64)
    with torch.no_grad():
        exact = prior.score(x_t, 0.5, CASES[name].told(prior)[0])
        rough = half.score(x_t, 0.5, CASES[name].told(half)[0])
    assert rough.x_0.dtype == rough.eps.dtype == rough.level.t.dtype == torch.float64
    assert error(rough.level.perturb(rough.x_0, rough.eps), x_t) < 1e-12
    assert 0 < (rough.eps - exact.eps).norm() / exact.eps.norm() < 0.2


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_distillation_reaches_the_pixels(name: str) -> None:
    prior = opened(name)
    case = CASES[name]
    condition, null = case.told(prior)
    h = w = case.size
    shape = (2, prior.codec.image_channels, h, w)
    image = torch.rand(shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
    x_0 = prior.codec.encode(image)
    assert x_0.shape == noise(prior, name).shape
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
        x_t = torch.nn.functional.pad(noise(prior, name), (0, 1))
        with pytest.raises(ValueError, match=f"that are multiples of {prior.score.patch}"):
            prior.score(x_t, 0.5, CASES[name].told(prior)[0])


def test_tiny_models_are_tiny() -> None:
    for name in CASES:
        files = [f for f in tiny_families.folder(name).rglob("*") if f.is_file()]
        assert sum(f.stat().st_size for f in files) < 2e6, name


# --- families whose pipelines draw noise on the way


def test_latent_consistency_models_are_told_their_guidance() -> None:
    name = "lcm"
    prior = opened(name)
    other = prior.condition(families.PROMPTS, guidance=2.0)
    with torch.no_grad():
        told = prior.score(noise(prior, name), 0.5, prior.condition(families.PROMPTS)).eps
        assert error(prior.score(noise(prior, name), 0.5, other).eps, told) > 1e-3


def test_the_score_sde_steps_as_its_scheduler_does() -> None:
    """x + (sigma^2 - sigma'^2) score is the mean of the predictor; the data are in [0, 1]."""
    prior, pipeline = opened("score_sde_ve"), families.pipeline("score_sde_ve")
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(STEPS)
    scheduler.set_sigmas(STEPS)
    sigmas = scheduler.discrete_sigmas.flip(0).double()
    schedule = prior.schedule
    times = schedule.time(-2 * sigmas.clamp(0.01, 50.0).log())
    assert error(schedule(times)[1], sigmas) < 1e-6
    for i in range(STEPS - 1):
        x = noise(prior, "score_sde_ve") * sigmas[i].float()
        with torch.no_grad():
            output = pipeline.unet(x, sigmas[i].float().expand(2)).sample
            ours = prior.score(x, times[i])
        made = scheduler.step_pred(output, scheduler.timesteps[i], x)
        step = sigmas[i].square() - sigmas[i + 1].square()
        assert error(ours.score, output) < 1e-5
        assert error(x + step.float() * ours.score, made.prev_sample_mean) < 1e-4
        tweedie = x + sigmas[i].float() ** 2 * output
        assert error(ours.x_0, tweedie) < 1e-5
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(prior.codec.encode(image), image)


# --- guidance by rules of their own


def test_guidance_of_one_is_the_conditional_model() -> None:
    """Every rule at its neutral scale gives back the output under the condition."""
    prior = opened("instruct_pix2pix")
    condition, null = CASES["instruct_pix2pix"].told(prior)
    x_t = noise(prior, "instruct_pix2pix")
    with torch.no_grad():
        plain = prior.score(x_t, 0.4, condition).eps
        for model in (
            RowNorm(prior.score, null, scale=1.0),
            TokenNorm(prior.score, null, scale=1.0),
            Extrapolated(prior.score, null, scale=0.0),
            InstructPix2Pix(prior.score, null, scale=1.0, image_scale=1.0),
        ):
            assert error(model(x_t, 0.4, condition).eps, plain) < 1e-5
            assert model.describe()["guidance"]["name"] == type(model).__name__


def test_extrapolated_guidance_is_bounded() -> None:
    prior = opened("z_image")
    condition, null = CASES["z_image"].told(prior)
    x_t = noise(prior, "z_image")
    with torch.no_grad():
        level = prior.score.level(0.4, x_t)
        (plain,) = prior.score.outputs(x_t, level, [condition])
        free = ClassifierFree(prior.score, null, scale=31.0)
        far = Extrapolated(prior.score, null, scale=30.0)
        assert error(far.output(x_t, level, condition), free.output(x_t, level, condition)) < 1e-4
        near = Extrapolated(prior.score, null, scale=30.0, most=1.0).output(x_t, level, condition)
    norms = near.flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1)
    assert bool((norms < 1 + 1e-5).all())


@pytest.mark.parametrize(
    ("make", "message"),
    (
        (lambda s, c: RowNorm(s, c, scale=float("nan")), "scale is nan"),
        (lambda s, c: Extrapolated(s, c, scale=1.0, most=0.0), "most is 0.0, expected .* above 0"),
        (lambda s, c: InstructPix2Pix(s, c, scale=1.0), "has no image"),
    ),
)
def test_wrong_guidance_is_refused(make: Callable[..., object], message: str) -> None:
    prior = opened("sdxl")
    with pytest.raises(ValueError, match=message):
        make(prior.score, prior.condition(""))


# --- what a family cannot take, in one line


@pytest.mark.parametrize(
    ("name", "given", "message"),
    (
        ("sdxl", {"label": 3}, "cannot be conditioned on label; it takes a prompt"),
        ("sdxl", {"crop": (1, 2)}, "crop=.* came without original"),
        ("sdxl", {"aesthetic": 5.0}, "only a refiner is told"),
        ("dit", {"prompt": "a heart"}, "cannot be conditioned on prompt; it takes a label"),
        ("dit", {"label": 1001}, "label is 1001, expected whole numbers from 0 to 999"),
        ("inpaint", {"prompt": "a heart"}, "takes a prompt, an image and a mask: give"),
        (
            "inpaint",
            {"image": families.IMAGE, "mask": families.IMAGE},
            r"mask has shape .* \[n, 1",
        ),
        ("instruct_pix2pix", {"prompt": "a heart"}, "takes a prompt and an image: give"),
        ("controlnet", {"prompt": "a heart"}, "takes a prompt and a hint: give"),
        ("controlnet", {"hint": families.IMAGE[:, :1]}, r"expected \[n, 3, h, w\]"),
        ("controlnet", {"hint": families.IMAGE[..., :-1]}, "must be multiples of 2"),
        ("latent_diffusion", {"prompt": "a heart"}, "it takes nothing, it is unconditional"),
        ("kandinsky_2_2", {"prompt": "a heart"}, "it takes an image embedding"),
        ("kandinsky_2_2", {}, r"embedding is none, expected \[n, 32\]"),
        ("flux_schnell", {"guidance": 3.5}, "this network is told none"),
        ("deepfloyd_if", {"prompt": "a \u2665"}, "does not know: '\u2665'"),
        ("pixart_alpha", {"prompt": "a" * 121}, "has 12[0-9] tokens .* at most 120"),
    ),
)
def test_what_a_family_cannot_take(name: str, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        opened(name).condition(**given)
    assert "\n" not in str(raised.value)


def test_sizes_and_looks_are_told_to_sdxl() -> None:
    """The sizes of the image are those of the pipeline's default; others change the answer."""
    prior, refiner = opened("sdxl"), opened("sdxl_refiner")
    x_t = noise(prior, "sdxl")
    with torch.no_grad():
        own = prior.score(x_t, 0.5, prior.condition("a red heart")).eps
        same = prior.condition("a red heart", original=(16, 16))
        assert torch.equal(prior.score(x_t, 0.5, same).eps, own)
        other = prior.condition("a red heart", original=(512, 300), crop=(8, 4))
        assert error(prior.score(x_t, 0.5, other).eps, own) > 1e-3
    assert refiner.condition("a red heart")["aesthetic"].item() == 6.0
    assert refiner.condition()["aesthetic"].item() == 2.5
    assert refiner.condition(["", "a"], aesthetic=4.0)["aesthetic"].tolist() == [[4.0], [4.0]]


# --- folders that contradict themselves


def changed(file: str, **values: object) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        contents = json.loads((path / file).read_text())
        (path / file).write_text(json.dumps(contents | values))

    return apply


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
TABLE = {"_class_name": "DDIMScheduler", "prediction_type": "epsilon", "use_flow_sigmas": False}
BROKEN: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "SDXL's sizes": (
        "sdxl",
        changed("unet/config.json", addition_time_embed_dim=16),
        "the unet's projection_class_embeddings_input_dim is 80 and the width of .* is 128",
    ),
    "SDXL of a flow": (
        "sdxl",
        changed("scheduler/scheduler_config.json", **FLOW),
        "is of the schedule Rectified, .* trained on Discrete or VE or EDM",
    ),
    "SD 3's pooled width": (
        "sd3",
        changed("transformer/config.json", pooled_projection_dim=40),
        "contradicts its weights: .* by the config",
    ),
    "Flux without its embedded guidance": (
        "flux_dev",
        changed("transformer/config.json", guidance_embeds=False),
        "contradicts its weights: .* is in the file but not",
    ),
    "a deeper DiT": (
        "dit",
        changed("transformer/config.json", num_layers=3),
        "contradicts its weights: .* in the config's network but not in the file",
    ),
    "Sana distilled for guidance": (
        "sana",
        changed("transformer/config.json", guidance_embeds=True),
        "has guidance_embeds=True, expected False",
    ),
    "Lumina2 on a table": (
        "lumina_2",
        changed("scheduler/scheduler_config.json", **TABLE),
        "is of the schedule Discrete, .* trained on Rectified",
    ),
    "Wan 2.2": ("wan", changed("model_index.json", boundary_ratio=0.9), "it is of Wan 2.2"),
    "LCM that is told nothing": (
        "lcm",
        changed("unet/config.json", time_cond_proj_dim=None),
        "has no time_cond_proj_dim, expected a width",
    ),
    "two ControlNets": (
        "controlnet",
        changed("model_index.json", controlnet=["diffusers", "MultiControlNetModel"]),
        "is a MultiControlNetModel, expected ControlNetModel",
    ),
    "an unknown prediction": (
        "sana",
        changed("scheduler/scheduler_config.json", prediction_type="velocity"),
        "prediction_type='velocity', expected one of: flow_prediction",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_contradictions_are_refused(what: str, tmp_path: Path) -> None:
    name, edit, message = BROKEN[what]
    path = Path(shutil.copytree(tiny_families.folder(name), tmp_path / "broken"))
    edit(path)
    with pytest.raises(ValueError, match=message) as raised:
        load(path)
    assert "broken" in str(raised.value) and "\n" not in str(raised.value)


# --- deliberate mistakes, each caught


def attribute(path: str, value: Callable[[object], object]) -> Callable[..., None]:
    """Changes one attribute, deep in a prior."""

    def apply(prior: Prior, patch: pytest.MonkeyPatch) -> None:
        *way, last = path.split(".")
        holder: object = prior
        for step in way:
            holder = getattr(holder, step)
        patch.setattr(holder, last, value(getattr(holder, last)), raising=True)

    return apply


def told(change: Callable[[dict], dict]) -> Callable[..., None]:
    """Changes what the network is told."""

    def apply(prior: Prior, patch: pytest.MonkeyPatch) -> None:
        honest = prior.score.call

        def call(x: torch.Tensor, level: torch.Tensor, condition: Condition) -> torch.Tensor:
            return honest(x, level, Condition(change(dict(condition))))

        patch.setattr(prior.score, "call", call)

    return apply


def output(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., None]:
    """Changes what the network returns."""

    def apply(prior: Prior, patch: pytest.MonkeyPatch) -> None:
        honest = prior.score.call
        patch.setattr(prior.score, "call", lambda *args: change(honest(*args)))

    return apply


def module(name: str, **changes: object) -> Callable[..., None]:
    """Changes names of an adapter's file."""

    def apply(prior: Prior, patch: pytest.MonkeyPatch) -> None:
        for key, value in changes.items():
            patch.setattr(f"sdstoolkit.adapters.{name}.{key}", value)

    return apply


def rule(cls: type, change: Callable[..., torch.Tensor]) -> Callable[..., None]:
    def apply(prior: Prior, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(cls, "rule", change)

    return apply


def sampler(cls: type[Sampler], **options: Any) -> Callable[..., None]:
    """Draws in another way."""

    def apply(prior: Prior, patch: pytest.MonkeyPatch) -> None:
        def sampled(prior: Prior, condition: Condition, first: torch.Tensor) -> torch.Tensor:
            start = first if cls is not PredictorCorrector else None
            return cls(prior.score, **options).sample(2, condition, seed=0, start=start)

        for name in ("lcm", "score_sde_ve"):
            patch.setitem(CASES, name, replace(CASES[name], sampled=sampled))

    return apply


def other_half(prior: Prior, patch: pytest.MonkeyPatch) -> None:
    """Takes the learned variance for eps."""
    honest = prior.score.network.forward
    channels = prior.score.shape[0]

    def forward(*args: object, **options: object) -> tuple[torch.Tensor]:
        return (honest(*args, **options)[0].roll(channels, dims=1),)

    patch.setattr(prior.score.network, "forward", forward)


def turned(prior: Prior, patch: pytest.MonkeyPatch) -> None:
    """Packs columns before rows."""
    for name in ("pack", "unpack"):
        honest = getattr(flux, name)

        def swapped(x: torch.Tensor, *like: torch.Tensor, honest=honest) -> torch.Tensor:
            if like:
                return honest(x, like[0].mT).mT
            return honest(x.mT)

        patch.setattr(flux, name, swapped)


def swap(condition: dict, a: str, b: str) -> dict:
    return condition | {a: condition[b], b: condition[a]}


def rolled(key: str, by: int, dim: int = 1) -> Callable[[dict], dict]:
    return lambda condition: condition | {key: condition[key].roll(by, dims=dim)}


def scaled(key: str, factor: float) -> Callable[[dict], dict]:
    return lambda condition: condition | {key: condition[key] * factor}


MISTAKES: dict[str, tuple[str, Callable[..., None], Check]] = {
    "SDXL: the two encoders' states change places": (
        "sdxl", told(rolled("text", 16, dim=2)), check_output),
    "SDXL: no pooled text": ("sdxl", told(scaled("pooled", 0)), check_output),
    "SDXL: the last hidden state": (
        "sdxl", attribute("text.readers", lambda r: _layered(r, -1)), check_output),
    "SDXL: an encoded null prompt": ("sdxl", attribute("zeros", lambda z: False), check_output),
    "SDXL: sizes in latents": ("sdxl", attribute("score.multiple", lambda m: 1), check_output),
    "refiner: the same looks with and without a prompt": (
        "sdxl_refiner", module("stable_diffusion_xl", AESTHETIC=(6.0, 6.0)), check_output),
    "EDM: no c_in": (
        "sdxl_edm_v", attribute("score.inputs", lambda i: lambda x, level: (x, i(x, level)[1])),
        check_output),
    "EDM: c_noise is log(sigma)": (
        "sdxl_edm_v",
        attribute("score.inputs", lambda i: lambda x, lv: (i(x, lv)[0], 4 * i(x, lv)[1])),
        check_output),
    "EDM: the v-prediction's sign": (
        "sdxl_edm_v", attribute("score.parameterization", lambda p: Karras(sigma_data=1.0)),
        check_x_0),
    "EDM: another sigma_data": (
        "sdxl_edm_epsilon", attribute("score.parameterization", lambda p: Karras(sigma_data=1.0)),
        check_x_0),
    "decoding without the mean of the latents": (
        "sdxl_edm_epsilon", attribute("codec._shift", lambda s: s * 0), check_run),
    "decoding without the scaling factor": (
        "sdxl", attribute("codec._scale", lambda s: s * 0 + 1), check_run),
    "SD 3: decoding without the shift factor": (
        "sd3", attribute("codec._shift", lambda s: s * 0), check_run),
    "SD 3: t in place of 1000 t": (
        "sd3", attribute("score.inputs", lambda i: Linear(1)), check_output),
    "SD 3: the sign of the velocity": ("sd3", output(torch.neg), check_output),
    "SD 3: the velocity read for v": (
        "sd3", attribute("score.parameterization", lambda p: V()), check_x_0),
    "SD 3: T5 is told of padding": (
        "sd3", attribute("text.t5.masked", lambda m: True), check_output),
    "SD 3: the pooled states change places": ("sd3", told(rolled("pooled", 16)), check_output),
    "Flux: time runs the other way": (
        "flux_dev", attribute("score.inputs", lambda i: Linear(-1, 1)), check_output),
    "Flux: the distilled guidance less one": (
        "flux_dev", told(lambda c: c | {"guidance": c["guidance"] - 1}), check_output),
    "Flux: patches by columns": ("flux_schnell", turned, check_output),
    "PixArt: padding counts": (
        "pixart_sigma", told(lambda c: c | {"mask": torch.ones_like(c["mask"])}), check_output),
    "PixArt: the variance for eps": ("pixart_sigma", other_half, check_output),
    "PixArt: the size in latents": (
        "pixart_alpha", attribute("score.multiple", lambda m: 1), check_output),
    "DiT: the null label is 0": (
        "dit", told(lambda c: c | {"label": c["label"] * (c["label"] < 1000)}), check_output),
    "DiT: the table is off by one": (
        "dit", attribute("score.inputs", lambda i: Linear(999, 1)), check_output),
    "IF: the prompt keeps its capitals": (
        "deepfloyd_if", attribute("text.reader.prepare", lambda p: str.upper), check_output),
    "Kandinsky: codes are scaled": (
        "kandinsky_2_2", attribute("codec._scale", lambda s: s * 0.18215), check_run),
    "Kandinsky: codes are quantised": (
        "kandinsky_2_2",
        attribute("codec._picture", lambda p: lambda z: p.__self__.autoencoder.decode(z).sample),
        check_run),
    "LDM: decoding without the scaling factor": (
        "latent_diffusion", attribute("codec._scale", lambda s: s * 0 + 1), check_run),
    "inpainting: the mask's other side": (
        "inpaint", told(lambda c: c | {"mask": 1 - c["mask"]}), check_output),
    "inpainting: unscaled latents around the mask": (
        "inpaint", told(scaled("shown", 1 / 0.18215)), check_output),
    "InstructPix2Pix: scaled latents": (
        "instruct_pix2pix", told(scaled("image", 0.18215)), check_output),
    "ControlNet: the hint in [-1, 1]": (
        "controlnet", told(lambda c: c | {"hint": 2 * c["hint"] - 1}), check_output),
    "ControlNet: at full strength": (
        "controlnet", told(lambda c: c | {"strength": c["strength"] / 0.7}), check_output),
    "LCM: the guidance itself is embedded": (
        "lcm", told(lambda c: c | {"guidance": c["guidance"] + 1}), check_output),
    "LCM: a step of the flow in place of new noise": (
        "lcm", sampler(DDIM, steps=STEPS), check_run),
    "LCM: even times that the student never saw": (
        "lcm", sampler(Consistency, steps=STEPS), check_run),
    "score SDE: without the correction": (
        "score_sde_ve", sampler(PredictorCorrector, steps=STEPS - 1, corrections=0, wide=True),
        check_run),
    "score SDE: another signal-to-noise ratio": (
        "score_sde_ve",
        sampler(PredictorCorrector, steps=STEPS - 1, snr=0.16, measured=True, wide=True),
        check_run),
    "score SDE: the smaller variance": (
        "score_sde_ve", sampler(PredictorCorrector, steps=STEPS - 1, snr=0.15, measured=True),
        check_run),
    "score SDE: eps for the score": (
        "score_sde_ve", attribute("score.parameterization", lambda p: Epsilon()), check_x_0),
    "Sana: no timestep scale": (
        "sana", attribute("score.inputs", lambda i: Linear(1000)), check_output),
    "AuraFlow: padding is not zero": (
        "aura_flow", told(lambda c: c | {"text": c["text"] + 0.1 * (c["text"] == 0)}),
        check_output),
    "Lumina2: the sign": ("lumina_2", output(torch.neg), check_output),
    "Lumina2: time runs the other way": (
        "lumina_2", attribute("score.inputs", lambda i: Linear(1)), check_output),
    "Lumina2: a system prompt for the null prompt": (
        "lumina_2", attribute("text.reader.prepare", lambda p: lambda s: lumina_2.SYSTEM + s),
        check_output),
    "Lumina2: plain guidance": ("lumina_2", rule(RowNorm, lambda s, c, n: n + 3 * (c - n)),
                                check_output),
    "Z-Image: guidance counted from the null model": (
        "z_image", rule(Extrapolated, lambda s, c, n: n + s.scale * (c - n)), check_output),
    "Qwen-Image: plain guidance": (
        "qwen_image", rule(TokenNorm, lambda s, c, n: n + 3 * (c - n)), check_output),
    "Qwen-Image: the whole template": ("qwen_image", module("qwen_image", SKIPPED=33),
                                       check_output),
    "SD 3: encoding without the shift factor": (
        "sd3", attribute("codec._encode", lambda e: lambda image: e(image) + 0.0609 * 1.5305),
        check_encode),
    "Sana: encoding without the scaling factor": (
        "sana", attribute("codec._encode", lambda e: lambda image: e(image) / 0.41407),
        check_encode),
    "Kandinsky: codes are scaled on the way in": (
        "kandinsky_2_2", attribute("codec._encode", lambda e: lambda image: 0.18215 * e(image)),
        check_encode),
    "Wan: encoding without the deviation": (
        "wan", attribute("codec._encode", lambda e: lambda image: 1.2 * e(image)), check_encode),
    "Wan: decoding without the mean": ("wan", attribute("codec._shift", lambda s: s * 0),
                                       check_run),
}  # fmt: skip


def _layered(readers: torch.nn.ModuleList, layer: int) -> torch.nn.ModuleList:
    for reader in readers:
        reader.layer = layer
    return readers


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, apply, check = MISTAKES[mistake]
    run = trace(name)  # every check passes on it, above
    prior = opened(name)
    apply(prior, monkeypatch)
    with pytest.raises(AssertionError):
        check(prior, name, run)
