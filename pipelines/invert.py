"""Find the noise that a model makes an image from, and say how far to trust it.

  sds invert heart.png --prompt "a red heart on a white background" --out inverted
  sds invert photo.jpg --fit crop --prompt "a fox" --model OWNER/NAME --out inverted

The image goes up the probability flow and down again. The folder then holds

  000000.png                   what came back
  000000-inverted.safetensors  the inversion, for Inverted.load, replay and edit in Python
  000000-compare.png           image, codec alone, what came back, and where the last two differ
  000000-report.txt, .json     round trip, latent against the prior, gain, codec floor
  manifest.json                what is needed to make it again, and the hash of every file
"""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from sdstoolkit.cli import Range, launch, one_of, plugin
from sdstoolkit.pipelines._loading import Loading
from sdstoolkit.pipelines._telling import Telling

if TYPE_CHECKING:
    from sdstoolkit.jobs import Job

ITERATIONS = 3  # of the power iteration for the gain


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds invert` takes, with its defaults."""

    image: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="IMAGE")]]
    """The image to invert."""
    prompt: str = ""
    """What the image shows; nothing for a model without words."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder to write: a new or an empty one, or one to resume."""
    model: str = "shapes"
    """The bundled model (shapes), a diffusers folder, or OWNER/NAME on the Hugging Face hub."""
    solver: Annotated[str, one_of("sdstoolkit.solvers")] = "exponential_adams"
    """The method that follows the flow; obelm and reversible_heun come back exactly."""
    steps: Annotated[int, Range(low=1)] = 50
    """Steps of the solver each way: 1 or more."""
    strength: Annotated[float, Range(above=0, high=1)] = 1.0
    """How far to go, a time: above 0, at most 1. 1 is all the way to noise."""
    scale: Annotated[float, Range()] = 1.0
    """Guidance scale: any finite number; 1 is no guidance, and the safest here."""
    loading: Loading = field(default_factory=Loading)
    telling: Telling = field(default_factory=Telling)


def run(options: Options) -> int:
    """Invert the image, unless that was done before."""
    from sdstoolkit import runs

    return runs.run(options, make, command="invert", files=("image",))


def make(job: "Job", options: Options) -> None:
    """Load, go up and down, report, and draw what came back."""
    import torch

    from sdstoolkit import ClassifierFree, ProbabilityFlow, jobs, pictures
    from sdstoolkit.solvers import Solver

    solver = plugin("sdstoolkit.solvers", options.solver, Solver)()
    prior = options.loading.open(options.model)
    image = options.telling.read(options.image, prior)
    prior = options.telling.tell(
        prior, image=image)
    condition = options.telling.condition(prior, options.prompt)
    model = prior.score
    if options.telling.leads(options.prompt) and options.scale != 1:
        model = ClassifierFree(model, prior.condition(None), scale=options.scale)
    flow = ProbabilityFlow(model, steps=options.steps, solver=solver, start=options.strength)
    with torch.no_grad():
        x_0 = prior.codec.encode(image)
    next(flow.steps(x_0, condition, invert=True))  # what is wrong shows here
    walks = 6 + ITERATIONS  # up, down twice, up in twice the steps, and the gain's
    with job, jobs.progress(walks * options.steps) as tell:
        flow.tell = lambda step: tell(1 if solver.visits else step.steps, None)
        inverted = flow.invert(x_0, condition, seed=0)
        report = flow.report(inverted, codec=prior.codec, image=image, iterations=ITERATIONS)
        back = flow.replay(inverted)
        job.note(**options.loading.facts(prior, model))
        job.note(solver=solver.describe(), weights=inverted.base)
        with torch.no_grad():
            alone, came = prior.codec.decode(x_0).float(), prior.codec.decode(back).float()
        if not came.isfinite().all():
            raise jobs.Failed("what came back is not finite; take more steps or less guidance")
        picture, gain = pictures.compare(image, alone, came)
        with job.file("000000-inverted.safetensors") as path:
            inverted.save(path)
        job.write("000000-compare.png", picture)
        found = report.to_dict() | {"difference_gain": gain}
        job.write("000000-report.json", json.dumps(found, indent=2))
        job.write("000000-report.txt", f"{report}\n")
        job.keep(0, came.cpu(), state="done", steps=options.steps)
        job.gather()
    print(report)


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
