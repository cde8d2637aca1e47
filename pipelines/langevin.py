"""Draw images from a prompt, by Langevin dynamics on a pretrained model's score.

  sds langevin "a red heart on a white background" --seeds 0-7 --out hearts
  sds langevin --model shapes-pixel --sampler predictor-corrector --levels 150 --out draws
  sds langevin --density moons --out moons

Annealed Langevin dynamics walks up the log density at falling noise levels; predictor-corrector
sampling steps down the levels and corrects at each, in the model's own space, with guidance. The
folder then holds an image a seed, grid.png and manifest.json. With --density an image is how many
points fell where; beside it are the score field, trajectories, the annealing, and the moments.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sdstoolkit.cli import Range, launch

if TYPE_CHECKING:
    from sdstoolkit.jobs import Job
    from sdstoolkit.score import ScoreModel

Density = Literal["checkerboard", "mixture", "moons", "ring", "spirals", "swiss-roll"]
SHOWN = 64  # images in grid.png


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds langevin` takes, with its defaults."""

    prompt: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PROMPT")]] = ""
    """What the image shows; nothing for an unconditional model."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder to write: a new or an empty one, or one to resume."""
    model: str = "shapes"
    """A bundled model (shapes, shapes-pixel), a diffusers folder, or OWNER/NAME on the hub."""
    density: Density | None = None
    """A law in the plane to draw from instead of a model; its score is exact. One seed."""
    points: Annotated[int, Range(low=2)] = 500
    """Points to draw with --density: 2 or more."""
    sampler: Literal["annealed", "predictor-corrector"] = "annealed"
    """Langevin steps at falling levels, or steps down the levels with Langevin corrections."""
    seeds: Annotated[str, tyro.conf.arg(metavar="SEEDS")] = "0"
    """The images to make, one a seed: numbers and ranges, for example 0-3,7."""
    levels: Annotated[int, Range(low=2)] = 60
    """Noise levels: 2 or more."""
    steps: Annotated[int, Range(low=1)] = 3
    """Langevin steps at each level: 1 or more."""
    snr: Annotated[float, Range(above=0)] = 0.16
    """Signal-to-noise ratio of a correction, for predictor-corrector: above 0 and below 1."""
    scale: Annotated[float, Range()] = 3.0
    """Guidance scale: any finite number; 1 is no guidance."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1, ...; auto is a GPU if there is one."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Numbers the network computes in."""
    batch_size: Annotated[int, Range(low=1)] = 4
    """Images at a time: 1 or more; more are quicker and take more memory."""


def run(options: Options) -> int:
    """Make the images that are missing; 1 if one of them could not be finished."""
    from sdstoolkit import runs

    if options.density:
        from sdstoolkit.pipelines._points import drawing

        return runs.run(options, drawing(annealed), command="langevin")
    return runs.run(options, make, command="langevin")


def annealed(score: "ScoreModel", options: Options) -> Any:
    """The sampler that was asked for."""
    from sdstoolkit import AnnealedLangevin, PredictorCorrector

    levels, steps = options.levels, options.steps
    if options.sampler == "annealed":
        return AnnealedLangevin(score, levels=levels, steps=steps)
    return PredictorCorrector(score, steps=levels, corrections=steps, snr=options.snr)


def make(job: "Job", options: Options) -> None:
    """Load, draw batch after batch, and keep what came out."""
    import torch

    from sdstoolkit import ClassifierFree, images, jobs, load

    device = jobs.pick_device(options.device)
    prior = load(options.model, device=device, dtype=getattr(torch, options.dtype))
    condition = prior.condition(options.prompt or None)
    score: ScoreModel = prior.score
    if options.prompt and options.scale != 1:
        score = ClassifierFree(score, prior.condition(""), scale=options.scale)
    prior.drop_text()
    sampler, rounds = annealed(score, options), options.levels + 1
    with job, jobs.progress(len(job.mine) * rounds, unit="level") as tell:
        job.note(device=device, threads=torch.get_num_threads(), model=score.describe())
        for part in job.parts(options.batch_size):
            with part as seeds, torch.no_grad():
                states = sampler.steps(len(seeds), condition, seeds)
                x_0 = next(states)
                for state in states:
                    x_0 = state
                    tell(len(seeds), None)
                drawn = prior.codec.decode(x_0).float().cpu()
                for seed, image in zip(seeds, drawn, strict=True):
                    job.keep(seed, image, state="done", steps=rounds)
        if job.gather():
            shown = torch.cat([job.read(seed) for seed in job.seeds[:SHOWN]])
            job.write("grid.png", images.grid(shown))


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
