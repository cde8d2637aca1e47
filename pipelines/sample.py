"""Draw images from a prompt, along the probability flow.

  sds sample "a red heart on a white background" --seeds 0-15 --scale 5 --steps 30 --out hearts
  sds sample --model facebook/DiT-XL-2-256 --label 207 --out dogs
  sds sample "make it night" --model timbrooks/instruct-pix2pix --image day.png --out night

An image is its seed's, whatever is drawn beside it. The folder then holds

  000000.png        the image of seed 0, and so on
  000000-steps.png  what the model expected of it on the way
  grid.png          the images side by side, at most 64
  manifest.json     what is needed to make them again, and the hash of every file

With --prompts FILE it holds a folder a prompt. The same command goes on after Ctrl-C.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sdstoolkit.cli import Range, launch, one_of, plugin
from sdstoolkit.pipelines._loading import Loading
from sdstoolkit.pipelines._showing import Showing

if TYPE_CHECKING:
    from sdstoolkit.batch import Batch
    from sdstoolkit.jobs import Job

MOMENTS = 8  # looks in a strip


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds sample` takes, with its defaults."""

    prompt: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PROMPT")]] = ""
    """What the images show, in words that the model knows; nothing for a model without words."""
    prompts: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A file of prompts instead: .txt, .csv or .jsonl."""
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
    batch_size: Annotated[int, Range(low=1)] = 4
    """Images at a time in each process: 1 or more; halved where they do not fit into memory."""
    processes: Annotated[int | None, Range(low=1), tyro.conf.arg(metavar="INT")] = None
    """How many processes there must be: 1 or more; by default what the launcher was told."""
    loading: Loading = field(default_factory=Loading)
    telling: Showing = field(default_factory=Showing)


def run(options: Options) -> int:
    """Draw the images that are missing."""
    from sdstoolkit import runs

    return runs.run_batch(options, make, command="sample")


def make(works: "Batch", options: Options) -> None:
    """Load, follow the flow batch after batch, and draw what came out."""

    from sdstoolkit import ClassifierFree, ProbabilityFlow, jobs
    from sdstoolkit.solvers import Solver

    solver = plugin("sdstoolkit.solvers", options.solver, Solver)()
    prior = options.telling.show(options.loading.open(options.model))

    def begin(job: "Job") -> tuple[Any, Any]:
        asked = job.record["options"]
        condition = options.telling.condition(prior, asked["prompt"])
        model = prior.score
        if options.telling.leads(asked["prompt"]) and options.scale != 1:
            null = prior.condition(asked["negative_prompt"] or None)
            model = ClassifierFree(model, null, scale=options.scale)
        return ProbabilityFlow(model, steps=options.steps, solver=solver), condition

    for job in works.jobs:
        flow, condition = begin(job)
    next(flow.steps(flow.noise(1), condition))  # what is wrong shows here
    prior.drop_text()
    with works, jobs.progress(works.mine * options.steps) as tell:
        works.note(**options.loading.facts(prior, flow.model), solver=solver.describe())
        for job, part in works.parts(options.batch_size):
            flow, condition = begin(job)
            with part as seeds:
                looks = []
                for step in flow.steps(flow.noise(len(seeds), seed=seeds), condition):
                    if step.x_0 is not None and step.index * MOMENTS % options.steps < MOMENTS:
                        looks.append(prior.codec.decode(step.x_0).detach())
                    tell(len(seeds) if step.index else 0, None)
                made = prior.codec.decode(flow.clean(step)).detach()
                for row, seed in enumerate(seeds):
                    if not made[row].isfinite().all():
                        raise jobs.Failed(f"the image of seed {seed} is not finite: more steps")
                    seen = [look[row : row + 1] for look in looks]
                    job.keep(seed, made[row], state="done", steps=options.steps, looks=seen)
        works.finish()


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
