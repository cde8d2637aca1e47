"""Make images from a prompt, by score distillation.

  sds optimize "a red heart" --seeds 0-7 --loss vsd --vsd.rank 8 --canvas fourier --out hearts
  sds optimize --prompts prompts.txt --seeds 0-3 --out many
  sds optimize "a fox" --model FOLDER --loras ink.safetensors=0.7 --hint edges.png --out fox

A seed's image depends neither on the others nor on how many are made at once, but for vsd and
repulsive, whose images are particles of one law. The folder then holds

  000000.png        the image of seed 0, and so on; 000000-steps.png is how it came to be
  grid.png          the images side by side, at most 64
  loss.png          the loss over the steps, one draw of noise each
  results.jsonl     a line an image: its prompt, state, steps, last loss and hash
  manifest.json     what is needed to make them again, and the hash of every file

With --prompts FILE it holds a folder a prompt, and sheet.png. The same command goes on where it
stopped. torchrun and accelerate share the images: docs/scaling.md.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sdstoolkit.choices import OPTIMIZERS, TOGETHER, Choices
from sdstoolkit.cli import Range, launch, one_of
from sdstoolkit.making import chosen, make_canvas, make_descent, make_loss
from sdstoolkit.pipelines._loading import Loading
from sdstoolkit.pipelines._showing import Showing

if TYPE_CHECKING:
    from sdstoolkit.batch import Batch
    from sdstoolkit.jobs import Job


@dataclass(frozen=True, kw_only=True)
class Options(Choices):
    """What `sds optimize` takes, with its defaults."""

    prompt: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PROMPT")]] = ""
    """What the image shows, in words that the model knows."""
    prompts: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A file of prompts instead: .txt, .csv or .jsonl."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder to write: a new or an empty one, or one to resume."""
    model: str = "shapes"
    """The bundled model (shapes), a diffusers folder, or OWNER/NAME on the Hugging Face hub."""
    loss: Annotated[str, one_of("sdstoolkit.distill")] = "sds"
    """The loss to follow."""
    canvas: Annotated[str, one_of("sdstoolkit.canvas")] = ""
    """What is optimised; by default latents, or pixels for several views."""
    seeds: Annotated[str, tyro.conf.arg(metavar="SEEDS")] = "0"
    """The images to make, one a seed: numbers and ranges, for example 0-3,7."""
    steps: Annotated[int, Range(low=1)] = 300
    """Steps of optimisation: 1 or more."""
    optimizer: OPTIMIZERS | None = None
    """How to go down, adam or plain gradient descent; by default what suits loss and canvas."""
    lr: Annotated[float | None, Range(above=0), tyro.conf.arg(metavar="FLOAT")] = None
    """Learning rate, by default what suits the loss and the canvas: above 0."""
    decay: Annotated[float | None, Range(low=0, high=1)] = None
    """Last part of the learning rate, along a cosine, by default 0 for adam, 1 for sgd: 0 to 1."""
    scale: Annotated[float | None, Range()] = None
    """Guidance scale, by default what suits the loss: any finite number; 1 is no guidance."""
    negative_prompt: str = ""
    """What to steer away from; by default the empty prompt."""
    batch_size: Annotated[int, Range(low=1)] = 4
    """Images at a time in each process: 1 or more; halved where they do not fit into memory."""
    checkpoint_every: Annotated[int, Range(low=0)] = 100
    """Steps between two checkpoints: 0 or more; 0 writes none but on SIGTERM."""
    processes: Annotated[int | None, Range(low=1), tyro.conf.arg(metavar="INT")] = None
    """How many processes there must be: 1 or more; by default what the launcher was told."""
    loading: Loading = field(default_factory=Loading)
    telling: Showing = field(default_factory=Showing)

    def __post_init__(self) -> None:
        object.__setattr__(self, "canvas", self.canvas or ("pixels" if self.view else "latents"))


def run(options: Options) -> int:
    """Make the images that are missing; 1 if one of them could not be finished."""
    from sdstoolkit import runs

    return runs.run_batch(options, make, command="optimize", chosen=chosen(options))


def make(works: "Batch", options: Options) -> None:
    """Load, optimise batch after batch, and draw what came out."""
    from sdstoolkit import images, jobs, optimize

    together = options.loss in TOGETHER
    prior = options.telling.show(options.loading.open(options.model))
    source = images.read_image(options.source).to(prior.device) if options.source else None
    if together and works.top.processes.world > 1:
        raise ValueError(f"the images of {options.loss} are one group, expected one process")

    def begin(job: "Job", seeds: tuple[int, ...]) -> Any:
        asked = {key: job.record["options"][key] for key in ("prompt", "negative_prompt")}
        wish = replace(options, **asked)
        loss = make_loss(wish, prior, source)
        canvas = make_canvas(wish, prior, seeds, source)
        how = make_descent(options, canvas)
        return canvas, optimize(canvas, loss, steps=options.steps, **how)

    for job in works.jobs:
        begin(job, job.seeds if together else job.seeds[:1])  # what is wrong shows here
    prior.drop_text()
    total, every = options.steps, options.checkpoint_every
    with works, jobs.progress(works.mine * total) as tell:
        works.note(**options.loading.facts(prior))
        size = len(works.jobs[0].seeds) if together else options.batch_size
        for job, part in works.parts(size):
            with part as seeds:
                job.follow(*begin(job, seeds), total=total, tell=tell, checkpoint_every=every)
        works.finish()


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
