"""What the unmodified pipelines do, step by step, for the tests of the adapters to compare with.

    trace("sdxl").steps[i]   what the pipeline handed its scheduler at step i, and what it got back

A case says how to run its pipeline and what to tell ours so that both do the same.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import tiny_families
import torch
from torch import Tensor

from sdstoolkit.adapters import load
from sdstoolkit.adapters._checkpoint import quiet
from sdstoolkit.condition import Condition
from sdstoolkit.guidance import ClassifierFree, Extrapolated, InstructPix2Pix, RowNorm, TokenNorm
from sdstoolkit.guidance._rescaled import Rescaled
from sdstoolkit.noise import Discrete, Rectified, Schedule
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, seeds_of
from sdstoolkit.samplers._walk import Draw
from sdstoolkit.samplers.consistency import Consistency, Distilled
from sdstoolkit.samplers.predictor_corrector import PredictorCorrector
from sdstoolkit.score import ScoreModel

PROMPTS = ["a red heart", "blue, and don't"]
STEPS = 4
SIZE = 16


class Step(NamedTuple):
    """One step of a pipeline, in its scheduler's space."""

    output: Tensor  # the guided one
    sample: Tensor
    following: Tensor
    x_0: Tensor | None


class Trace(NamedTuple):
    """A run of a pipeline.

    Attributes:
        pipeline: the unmodified one.
        steps: what it did.
        image: what it returned, [n, 3, h, w] in [0, 1]; None where it returns none like that.
    """

    pipeline: Any
    steps: list[Step]
    image: Tensor | None


def _prompts(prior: Prior) -> tuple[Condition, Condition | None]:
    return prior.condition(PROMPTS), prior.condition("")


def _guided(score: ScoreModel, null: Condition | None, scale: float) -> ScoreModel:
    return score if null is None else ClassifierFree(score, null, scale=scale)


@dataclass(frozen=True)
class Case:
    """How to run a family's pipeline, and ours beside it.

    Attributes:
        arguments: of the pipeline's call, besides the latents and the number of steps.
        told: the condition and the null one that mean the same.
        scale: of the guidance, by our convention; the pipeline's is in `arguments`.
        guided: our model with the pipeline's guidance.
        scheduler: changes the pipeline's scheduler, for one whose steps are plain.
        changes: of that scheduler's config.
        unpacked: the pipeline's latents as ours.
        packed: ours as the pipeline's.
        run: calls the pipeline with its arguments, if not in the common way.
        sampled: the run of ours that draws the same noise, from the pipeline's first sample, for a
            pipeline that draws on its way.
        size: of the images.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    told: Callable[[Prior], tuple[Condition, Condition | None]] = _prompts
    scale: float = 3.0
    guided: Callable[[ScoreModel, Condition | None, float], ScoreModel] = _guided
    scheduler: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    unpacked: Callable[[Tensor], Tensor] = lambda x: x
    packed: Callable[[Tensor], Tensor] = lambda x: x
    run: Callable[[Any, Tensor, dict[str, Any]], Any] | None = None
    sampled: Callable[[Prior, Condition, Tensor], Tensor] | None = None
    output: str = "pt"
    size: int = SIZE


def opened(name: str, **options: Any) -> Prior:
    return load(tiny_families.folder(name), **options)


def noise(prior: Prior, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """A state of two rows, for images of the case's size."""
    shape = prior.codec.shape(2, CASES[name].size, CASES[name].size)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@functools.cache
def pipeline(name: str) -> Any:
    """The unmodified pipeline of a family's tiny folder."""
    with quiet():
        import diffusers

        folder = tiny_families.folder(name)
        index = json.loads((folder / "model_index.json").read_text())
        absent = {key: None for key, value in index.items() if value == [None, None]}
        opened = diffusers.DiffusionPipeline.from_pretrained(folder, **absent)
    opened.set_progress_bar_config(disable=True)
    return opened


@functools.cache
def trace(name: str) -> Trace:
    """The run of a family's pipeline over its own tiny folder, four steps of two prompts."""
    with quiet():
        import diffusers

        case, pipe = CASES[name], pipeline(name)
        if case.scheduler or case.changes:
            config = {**pipe.scheduler.config, **case.changes}
            cls = getattr(diffusers, case.scheduler or config["_class_name"])
            config.pop("_class_name", None)
            pipe.scheduler = cls.from_config(config)
        steps: list[Step] = []
        _record(pipe.scheduler, steps, case.unpacked)
        latents = case.packed(noise(opened(name), name))
        arguments = {k: list(v) if isinstance(v, list) else v for k, v in case.arguments.items()}
        with torch.no_grad():
            if case.run is not None:
                image = case.run(pipe, latents, arguments)
            else:
                image = pipe(
                    latents=latents,
                    num_inference_steps=STEPS,
                    output_type=case.output,
                    **arguments,
                )[0]
    assert len(steps) == STEPS
    return Trace(pipe, steps, image if isinstance(image, Tensor) else None)


def _record(scheduler: Any, steps: list[Step], unpacked: Callable[[Tensor], Tensor]) -> None:
    if hasattr(scheduler, "step_pred"):
        return _record_predictor(scheduler, steps)
    honest = scheduler.step

    def step(output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
        made = honest(output, timestep, sample, *args, **{**options, "return_dict": True})
        x_0 = getattr(made, "pred_original_sample", getattr(made, "denoised", None))
        kept = (output, sample, made.prev_sample, x_0)
        steps.append(Step(*(None if v is None else unpacked(v).clone() for v in kept)))
        return made if options.get("return_dict", True) else made.to_tuple()

    scheduler.step = step


def _record_predictor(scheduler: Any, steps: list[Step]) -> None:
    """The score SDE's predictor: its mean, which is what the pipeline returns at last."""
    honest = scheduler.step_pred

    def step(output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        made = honest(output, timestep, sample, **options)
        if len(steps) < STEPS:  # the pipeline is shared
            tweedie = sample + scheduler.sigmas[len(steps)] ** 2 * output
            kept = (output, sample, made.prev_sample_mean, tweedie)
            steps.append(Step(*(v.clone() for v in kept)))
        return made

    scheduler.step_pred = step


def drawn(prior: Prior, dtype: torch.dtype = torch.float32) -> Draw:
    """What a sampler of ours draws for two rows of seed 0, one block after the other."""
    rng = generators(seeds_of(0, 2), "sampler")
    return Draw(rng, prior.score.shape, dtype, torch.device("cpu"))


def visited(scheduler: Any, schedule: Schedule) -> list[float | None]:
    """Our times of the levels that a pipeline's scheduler visits, STEPS + 1; None for clean."""
    if isinstance(schedule, Rectified):
        return [*(float(k) / 1000 for k in scheduler.timesteps), float(scheduler.sigmas[-1])]
    if isinstance(schedule, Discrete):
        times = [float(k) / (schedule.steps - 1) for k in scheduler.timesteps]
        ends_clean = hasattr(scheduler, "sigmas") or scheduler.config.set_alpha_to_one
        return [*times, None if ends_clean else 0.0]
    ends = [float(schedule.log_snr(end)) for end in (1.0, 0.0)]
    noisy = scheduler.sigmas[scheduler.sigmas > 0]  # Karras's end with none, the score SDE's not
    at = (-2 * noisy.double().log()).clamp(*ends)
    return [*schedule.time(at).tolist(), None]


def state(x: Tensor, scheduler: Any, schedule: Schedule, i: int) -> Tensor:
    """A scheduler's sample at its node i as our x_t, by its own (float32) sigma."""
    if isinstance(schedule, Discrete) and hasattr(scheduler, "sigmas"):
        return x / (1 + scheduler.sigmas[i] ** 2).sqrt()  # Euler's x is x_t / alpha_t
    return x


def original(step: Step, scheduler: Any, i: int) -> Tensor:
    """The scheduler's own estimate of x_0 at its node i."""
    if step.x_0 is not None:
        return step.x_0
    sigma = scheduler.sigmas[i]
    if hasattr(scheduler, "precondition_outputs"):
        return scheduler.precondition_outputs(step.sample, step.output, sigma)
    return step.sample - sigma * step.output  # a flow's step to no noise


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, by the largest of theirs."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


# --- the cases

SDXL = {"prompt": PROMPTS, "guidance_scale": 3.0, "height": SIZE, "width": SIZE}


def _refine(pipeline: Any, latents: Tensor, arguments: dict[str, Any]) -> Any:
    """The refiner starts from an image's latents: here from the end of all noise."""
    return pipeline(
        image=latents, num_inference_steps=STEPS, strength=1.0, output_type="pt", **arguments
    )[0]


def _labels(prior: Prior) -> tuple[Condition, Condition]:
    return prior.condition(label=[1, 207]), prior.condition()


def _by_generator(pipeline: Any, latents: Tensor, arguments: dict[str, Any]) -> Any:
    """For a pipeline that takes no latents: the trace tells what it began with."""
    generator = torch.Generator().manual_seed(0)
    return pipeline(generator=generator, num_inference_steps=STEPS, output_type="pt", **arguments)[
        0
    ]


def _ldm(pipeline: Any, latents: Tensor, arguments: dict[str, Any]) -> Any:
    made = pipeline(num_inference_steps=STEPS, output_type="np", **arguments)[0]
    return torch.from_numpy(made).permute(0, 3, 1, 2)


def _if(pipeline: Any, latents: Tensor, arguments: dict[str, Any]) -> Any:
    return (_by_generator(pipeline, latents, arguments) / 2 + 0.5).clamp(0, 1)


def _kandinsky(pipeline: Any, latents: Tensor, arguments: dict[str, Any]) -> Any:
    made = pipeline(latents=latents, num_inference_steps=STEPS, output_type="pt", **arguments)
    return (made[0] / 2 + 0.5).clamp(0, 1)


def _inpaint(pipeline: Any, latents: Tensor, arguments: dict[str, Any]) -> Any:
    """The pipeline draws from the posterior of what is around the mask; here it takes the mean."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiagonalGaussianDistribution, "sample", lambda self, g=None: self.mode())
        return pipeline(latents=latents, num_inference_steps=STEPS, output_type="pt", **arguments)[
            0
        ]


def _video(pipeline: Any, latents: Tensor, arguments: dict[str, Any]) -> Any:
    made = pipeline(latents=latents, num_inference_steps=STEPS, output_type="pt", **arguments)
    return made[0][:, 0]


def _drawn_by_us(*modules: str) -> Callable[[Any, Tensor, dict[str, Any]], Any]:
    """For a pipeline that draws on its way: it gets what our sampler draws, in its own order."""

    def run(pipeline: Any, latents: Tensor, arguments: dict[str, Any]) -> Any:
        noises = drawn(opened(arguments.pop("name")))
        if arguments:
            arguments |= {"latents": latents, "output_type": "pt"}
        else:
            arguments = {"batch_size": 2, "output_type": "np"}
        with pytest.MonkeyPatch.context() as patch:
            for module in modules:
                patch.setattr(f"{module}.randn_tensor", lambda *a, **k: noises.normal())
            made = pipeline(num_inference_steps=STEPS, **arguments)[0]
        return made if isinstance(made, Tensor) else torch.from_numpy(made).permute(0, 3, 1, 2)

    return run


def _consistency(prior: Prior, condition: Condition, first: Tensor) -> Tensor:
    sampler = Consistency(prior.score, steps=STEPS, grid=Distilled())
    return sampler.sample(2, condition, seed=0, start=first)


def _predicted_and_corrected(prior: Prior, condition: Condition, first: Tensor) -> Tensor:
    """It draws its own beginning; its levels are the pipeline's, one step fewer and the end."""
    sampler = PredictorCorrector(prior.score, steps=STEPS - 1, snr=0.15, measured=True, wide=True)
    return sampler.sample(2, condition, seed=0)


def _first(latents: Tensor) -> Tensor:
    """DiT's pipeline carries its latents twice."""
    return latents[:2]


PLAIN = {"prompt": PROMPTS, "guidance_scale": 3.0, "height": SIZE, "width": SIZE}
FLUX = {
    "prompt": PROMPTS,
    "negative_prompt": ["", ""],
    "true_cfg_scale": 3.0,
    "height": SIZE,
    "width": SIZE,
}
PIXART = Case(
    PLAIN | {"use_resolution_binning": False},
    scheduler="DDIMScheduler",
    changes={"timestep_spacing": "trailing", "clip_sample": False},
)


GENERATOR = torch.Generator().manual_seed(1)
IMAGE = torch.rand(2, 3, SIZE, SIZE, generator=GENERATOR)
MASK = (torch.rand(2, 1, SIZE, SIZE, generator=GENERATOR) > 0.4).float()
EMBEDDINGS = torch.randn(2, 32, generator=GENERATOR), torch.randn(2, 32, generator=GENERATOR)


def _inpainted(prior: Prior) -> tuple[Condition, Condition]:
    first, second = (prior.condition(p, image=IMAGE, mask=MASK) for p in (PROMPTS, ""))
    return first, second


def _instructed(prior: Prior) -> tuple[Condition, Condition]:
    return prior.condition(PROMPTS, image=IMAGE), prior.condition("", image=IMAGE)


def _hinted(prior: Prior) -> tuple[Condition, Condition]:
    first, second = (prior.condition(p, hint=IMAGE, strength=0.7) for p in (PROMPTS, ""))
    return first, second


def _nothing(prior: Prior) -> tuple[Condition, None]:
    return prior.condition(), None


def _embedded(prior: Prior) -> tuple[Condition, Condition]:
    first, second = (prior.condition(embedding=e) for e in EMBEDDINGS)
    return first, second


def _pix2pix(score: ScoreModel, null: Condition | None, scale: float) -> ScoreModel:
    assert null is not None
    return InstructPix2Pix(score, null, scale=scale, image_scale=1.5)


def _rule(guidance: type[Rescaled]) -> Callable[..., ScoreModel]:
    return lambda score, null, scale: guidance(score, null, scale=scale)


DDIM = {"clip_sample": False, "timestep_spacing": "trailing", "variance_type": "fixed_small"}


def _packed(x: Tensor) -> Tensor:
    from diffusers import FluxPipeline

    return FluxPipeline._pack_latents(x, *x.shape)


def _unpacked(x: Tensor) -> Tensor:
    from diffusers import FluxPipeline

    return FluxPipeline._unpack_latents(x, SIZE, SIZE, 2)


CASES: dict[str, Case] = {
    "sdxl": Case(SDXL),
    "sdxl_edm_v": Case(SDXL),
    "sdxl_edm_epsilon": Case(SDXL),
    "sdxl_refiner": Case(
        {k: v for k, v in SDXL.items() if k not in ("height", "width")}, run=_refine
    ),
    "sd3": Case(PLAIN),
    "sd3_without_t5": Case(PLAIN),
    "flux_dev": Case(
        FLUX | {"guidance_scale": 4.0},
        told=lambda prior: tuple(prior.condition(p, guidance=4.0) for p in (PROMPTS, "")),
        packed=_packed,
        unpacked=_unpacked,
    ),
    "flux_schnell": Case(FLUX | {"max_sequence_length": 256}, packed=_packed, unpacked=_unpacked),
    "pixart_alpha": PIXART,
    "pixart_sigma": PIXART,
    "dit": Case(
        {"class_labels": [1, 207], "guidance_scale": 3.0},
        told=_labels,
        run=_by_generator,
        unpacked=_first,
    ),
    "inpaint": Case(
        PLAIN | {"image": IMAGE, "mask_image": MASK, "strength": 1.0},
        told=_inpainted,
        run=_inpaint,
    ),
    "instruct_pix2pix": Case(
        {k: v for k, v in PLAIN.items() if k not in ("height", "width")}
        | {"image": IMAGE, "image_guidance_scale": 1.5},
        told=_instructed,
        guided=_pix2pix,
    ),
    "controlnet": Case(
        PLAIN | {"image": IMAGE, "controlnet_conditioning_scale": 0.7}, told=_hinted
    ),
    "latent_diffusion": Case({"batch_size": 2}, told=_nothing, run=_ldm),
    "deepfloyd_if": Case(
        {k: v for k, v in PLAIN.items() if k not in ("height", "width")},
        scheduler="DDIMScheduler",
        changes=DDIM,
        run=_if,
        size=8,
        unpacked=lambda x: x[:, :3],
    ),
    "kandinsky_2_2": Case(
        {
            "image_embeds": EMBEDDINGS[0],
            "negative_image_embeds": EMBEDDINGS[1],
            "guidance_scale": 3.0,
            "height": SIZE,
            "width": SIZE,
        },
        scheduler="DDIMScheduler",
        changes=DDIM,
        told=_embedded,
        run=_kandinsky,
        unpacked=lambda x: x[:, :4],
    ),
    "sana": Case(
        PLAIN
        | {"complex_human_instruction": None, "use_resolution_binning": False}
        | {"height": 32, "width": 32},
        scheduler="FlowMatchEulerDiscreteScheduler",  # its own cuts timesteps to integers
        changes={"shift": 3.0},
        size=32,
    ),
    "aura_flow": Case(PLAIN),
    "lumina_2": Case(PLAIN | {"height": 64, "width": 64}, guided=_rule(RowNorm)),
    "z_image": Case(PLAIN, guided=_rule(Extrapolated)),
    "qwen_image": Case(
        {k: v for k, v in FLUX.items()},
        guided=_rule(TokenNorm),
        packed=_packed,
        unpacked=_unpacked,
    ),
    "wan": Case(
        PLAIN | {"num_frames": 1},
        scheduler="FlowMatchEulerDiscreteScheduler",
        changes={"shift": 3.0},
        run=_video,
        packed=lambda x: x[:, :, None],
        unpacked=lambda x: x[:, :, 0],
    ),
    "lcm": Case(
        {"prompt": PROMPTS, "guidance_scale": 8.5, "height": SIZE, "width": SIZE, "name": "lcm"},
        told=lambda prior: (prior.condition(PROMPTS), None),
        run=_drawn_by_us("diffusers.schedulers.scheduling_lcm"),
        sampled=_consistency,
    ),
    "score_sde_ve": Case(
        {"name": "score_sde_ve"},
        told=_nothing,
        run=_drawn_by_us(
            "diffusers.schedulers.scheduling_sde_ve",
            "diffusers.pipelines.deprecated.score_sde_ve.pipeline_score_sde_ve",
        ),
        sampled=_predicted_and_corrected,
        size=8,
    ),
}
