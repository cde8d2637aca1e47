"""What the unmodified pipelines do, step by step, for the tests of the adapters to compare with.

    trace("sdxl").steps[i]   what the pipeline handed its scheduler at step i, and what it got back

A case says how to run its pipeline and what to tell ours so that both do the same.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import tiny_families
import torch
from torch import Tensor

from sdstoolkit.adapters import load
from sdstoolkit.adapters._checkpoint import quiet
from sdstoolkit.condition import Condition
from sdstoolkit.guidance import ClassifierFree
from sdstoolkit.noise import Discrete, Rectified, Schedule
from sdstoolkit.prior import Prior
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
    output: str = "pt"
    size: int = SIZE


def opened(name: str, **options: Any) -> Prior:
    return load(tiny_families.folder(name), **options)


def noise(prior: Prior, n: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *prior.score.shape, generator=generator, dtype=torch.float64).to(dtype)


@functools.cache
def trace(name: str) -> Trace:
    """The run of a family's pipeline over its own tiny folder, four guided steps of two prompts."""
    with quiet():
        import diffusers

        case = CASES[name]
        pipeline = diffusers.DiffusionPipeline.from_pretrained(tiny_families.folder(name))
        pipeline.set_progress_bar_config(disable=True)
        if case.scheduler or case.changes:
            config = {**pipeline.scheduler.config, **case.changes}
            cls = getattr(diffusers, case.scheduler or config["_class_name"])
            config.pop("_class_name", None)
            pipeline.scheduler = cls.from_config(config)
        steps: list[Step] = []
        _record(pipeline.scheduler, steps, case.unpacked)
        latents = case.packed(noise(opened(name)))
        with torch.no_grad():
            if case.run is not None:
                image = case.run(pipeline, latents, dict(case.arguments))
            else:
                image = pipeline(
                    latents=latents,
                    num_inference_steps=STEPS,
                    output_type=case.output,
                    **case.arguments,
                )[0]
    assert len(steps) == STEPS
    return Trace(pipeline, steps, image if isinstance(image, Tensor) else None)


def _record(scheduler: Any, steps: list[Step], unpacked: Callable[[Tensor], Tensor]) -> None:
    honest = scheduler.step

    def step(output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
        made = honest(output, timestep, sample, *args, **{**options, "return_dict": True})
        x_0 = getattr(made, "pred_original_sample", None)
        kept = (output, sample, made.prev_sample, x_0)
        steps.append(Step(*(None if v is None else unpacked(v).clone() for v in kept)))
        return made if options.get("return_dict", True) else made.to_tuple()

    scheduler.step = step


def visited(scheduler: Any, schedule: Schedule) -> list[float | None]:
    """Our times of the levels that a pipeline's scheduler visits, STEPS + 1; None for clean."""
    if isinstance(schedule, Rectified):
        return [float(sigma) for sigma in scheduler.sigmas]
    if isinstance(schedule, Discrete):
        times = [float(k) / (schedule.steps - 1) for k in scheduler.timesteps]
        ends_clean = hasattr(scheduler, "sigmas") or scheduler.config.set_alpha_to_one
        return [*times, None if ends_clean else 0.0]
    ends = [float(schedule.log_snr(end)) for end in (1.0, 0.0)]
    at = (-2 * scheduler.sigmas[:-1].double().log()).clamp(*ends)
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


CASES: dict[str, Case] = {
    "sdxl": Case(SDXL),
    "sdxl_edm_v": Case(SDXL),
    "sdxl_edm_epsilon": Case(SDXL),
    "sdxl_refiner": Case(
        {k: v for k, v in SDXL.items() if k not in ("height", "width")}, run=_refine
    ),
}
