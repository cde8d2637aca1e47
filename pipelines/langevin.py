"""Draw images from a prompt, by Langevin dynamics on a pretrained model's score.

  sds langevin "a red heart on a white background" --seeds 0-7 --out hearts
  sds langevin --model shapes-pixel --sampler predictor-corrector --levels 150 --out draws
  sds langevin --density moons --out moons

Annealed Langevin dynamics walks up the log density at falling noise levels; predictor-corrector
sampling steps down the levels and corrects at each, with guidance. The folder then holds an image
a seed, grid.png and manifest.json; with --prompts FILE, a folder a prompt. With --density an image
is how many points fell where; beside it are the field, trajectories, the annealing, the moments.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sdstoolkit.cli import Range, launch
from sdstoolkit.pipelines._loading import Loading
from sdstoolkit.pipelines._showing import Showing

if TYPE_CHECKING:
    from sdstoolkit.batch import Batch
    from sdstoolkit.jobs import Job
    from sdstoolkit.score import ScoreModel

Density = Literal["checkerboard", "mixture", "moons", "ring", "spirals", "swiss-roll"]

@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds langevin` takes, with its defaults."""

    prompt: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PROMPT")]] = ""
    """What the image shows; nothing for an unconditional model."""
    prompts: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A file of prompts instead: .txt, .csv or .jsonl."""
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
    batch_size: Annotated[int, Range(low=1)] = 4
    """Images at a time in each process: 1 or more; halved where they do not fit into memory."""
    processes: Annotated[int | None, Range(low=1), tyro.conf.arg(metavar="INT")] = None
    """How many processes there must be: 1 or more; by default what the launcher was told."""
    loading: Loading = field(default_factory=Loading)
    telling: Showing = field(default_factory=Showing)


def run(options: Options) -> int:
    """Make the images that are missing; 1 if one of them could not be finished."""
    from sdstoolkit import runs

    if options.density:
        from sdstoolkit.pipelines._points import drawing

        return runs.run(options, drawing(annealed), command="langevin")
    return runs.run_batch(options, make, command="langevin")


def annealed(score: "ScoreModel", options: Options) -> Any:
    """The sampler that was asked for."""
    from sdstoolkit import AnnealedLangevin, PredictorCorrector

    levels, steps = options.levels, options.steps
    if options.sampler == "annealed":
        return AnnealedLangevin(score, levels=levels, steps=steps)
    return PredictorCorrector(score, steps=levels, corrections=steps, snr=options.snr)


def make(works: "Batch", options: Options) -> None:
    """Load, draw batch after batch, and keep what came out."""
    import torch

    from sdstoolkit import ClassifierFree, jobs

    prior = options.telling.show(options.loading.open(options.model))

    def begin(job: "Job") -> tuple[Any, Any]:
        asked, score = job.record["options"], prior.score
        if options.telling.leads(asked["prompt"]) and options.scale != 1:
            null = prior.condition(asked.get("negative_prompt") or None)
            score = ClassifierFree(score, null, scale=options.scale)
        return annealed(score, options), options.telling.condition(prior, asked["prompt"])

    rounds = options.levels + 1
    begun = {job.out: begin(job) for job in works.jobs}  # what is wrong shows here
    prior.drop_text()
    with works, jobs.progress(works.mine * rounds, unit="level") as tell:
        works.note(**options.loading.facts(prior))
        for job, part in works.parts(options.batch_size):
            sampler, condition = begun[job.out]
            with part as seeds, torch.no_grad():
                states = sampler.steps(len(seeds), condition, seeds)
                x_0 = next(states)
                for x_0 in states:  # noqa: B007
                    tell(len(seeds), None)
                for seed, image in zip(seeds, prior.codec.decode(x_0).float().cpu(), strict=True):
                    job.keep(seed, image, state="done", steps=rounds)
        works.finish()


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
