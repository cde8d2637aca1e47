"""Draw images from a prompt, along the probability flow.

  sds sample "a red heart on a white background" --out hearts
  sds sample "a red heart on a white background" --seeds 0-15 --scale 5 --steps 30 --out hearts

An image is its seed's, whatever is drawn beside it. The folder then holds

  000000.png        the image of seed 0, and so on
  000000-steps.png  what the model expected of it on the way
  grid.png          the images side by side, at most 64
  manifest.json     what is needed to make them again, and the hash of every file

Ctrl-C keeps what was made so far; the same command goes on from there.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sdstoolkit.cli import Range, launch, one_of, plugin

if TYPE_CHECKING:
    from sdstoolkit.jobs import Job

SHOWN = 64  # images in grid.png
MOMENTS = 8  # looks in a strip


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds sample` takes, with its defaults."""

    prompt: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PROMPT")]]
    """What the images show, in words that the model knows; "" for a model without words."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder to write: a new or an empty one, or one to resume."""
    model: str = "shapes"
    """The bundled model (shapes), a diffusers folder, or OWNER/NAME on the Hugging Face hub."""
    solver: Annotated[str, one_of("sdstoolkit.solvers")] = "exponential_adams"
    """The method that follows the flow."""
    seeds: Annotated[str, tyro.conf.arg(metavar="SEEDS")] = "0"
    """The images to draw, one a seed: numbers and ranges, for example 0-3,7."""
    steps: Annotated[int, Range(low=1)] = 50
    """Steps of the solver: 1 or more."""
    scale: Annotated[float, Range()] = 3.0
    """Guidance scale: any finite number; 1 is no guidance. Of no effect without a prompt."""
    negative_prompt: str = ""
    """What to steer away from; by default the empty prompt."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1, ...; auto is a GPU if there is one."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Numbers the network computes in; the state is float64."""
    batch_size: Annotated[int, Range(low=1)] = 4
    """Images at a time: 1 or more; more are quicker and take more memory."""


def run(options: Options) -> int:
    """Draw the images that are missing."""
    from sdstoolkit import jobs

    return jobs.run(options, make, command="sample")


def make(job: "Job", options: Options) -> None:
    """Load, follow the flow batch after batch, and draw what came out."""
    import torch

    from sdstoolkit import ClassifierFree, ProbabilityFlow, ScoreModel, images, jobs, load
    from sdstoolkit.solvers import Solver

    solver = plugin("sdstoolkit.solvers", options.solver, Solver)()
    device = jobs.pick_device(options.device)
    prior = load(options.model, device=device, dtype=getattr(torch, options.dtype))
    condition = prior.condition(options.prompt or None)
    model: ScoreModel = prior.score
    if options.prompt and options.scale != 1:
        null = prior.condition(options.negative_prompt or None)
        model = ClassifierFree(model, null, scale=options.scale)
    flow = ProbabilityFlow(model, steps=options.steps, solver=solver)
    next(flow.steps(flow.noise(1), condition))  # what is wrong shows here
    prior.drop_text()
    with job, jobs.progress(len(job.todo) * options.steps) as tell:
        job.note(device=device, threads=torch.get_num_threads(), model=model.describe())
        job.note(solver=solver.describe())
        for seeds in job.batches(options.batch_size):
            looks = []
            for step in flow.steps(flow.noise(len(seeds), seed=seeds), condition):
                if step.x_0 is not None and step.index * MOMENTS % options.steps < MOMENTS:
                    looks.append(prior.codec.decode(step.x_0).detach())
                tell(len(seeds) if step.index else 0, None)
            made = prior.codec.decode(flow.clean(step)).detach()
            for row, seed in enumerate(seeds):
                if not made[row].isfinite().all():
                    raise jobs.Failed(f"the image of seed {seed} is not finite; take more steps")
                job.write(f"{seed:06d}-steps.png", images.strip([v[row : row + 1] for v in looks]))
                job.keep(seed, made[row], state="done", steps=options.steps)
        shown = job.seeds[:SHOWN]
        job.write("grid.png", images.grid(torch.cat([job.read(seed) for seed in shown])))


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
