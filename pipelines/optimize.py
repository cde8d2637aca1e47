"""Make images from a prompt, by score distillation.

  sds optimize "a red heart on a white background" --out heart
  sds optimize "a red heart" --seeds 0-7 --loss vsd --vsd.rank 8 --canvas fourier --out hearts

A seed's image depends neither on the other seeds nor on how many are made at once, but for vsd
and repulsive, whose images are particles of one law. The folder then holds

  000000.png        the image of seed 0, and so on
  000000-steps.png  how it came to be
  grid.png          the images side by side, at most 64
  loss.png          the loss over the steps, jagged because it is one draw of noise a step
  manifest.json     what is needed to make them again, and hashes

Ctrl-C keeps what was made so far; the same command goes on from there.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sdstoolkit.choices import TOGETHER, Choices, make_canvas, make_loss
from sdstoolkit.cli import Range, launch, one_of

if TYPE_CHECKING:
    from sdstoolkit.jobs import Job

EXECUTION = ("out", "seeds", "batch_size", "device")  # they do not decide on the image of a seed
SHOWN = 64  # images in grid.png, curves in loss.png


@dataclass(frozen=True, kw_only=True)
class Options(Choices):
    """What `sds optimize` takes, with its defaults."""

    prompt: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PROMPT")]]
    """What the image shows, in words that the model knows."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder to write: a new or an empty one, or one to resume."""
    model: str = "shapes"
    """The bundled model (shapes), a diffusers folder, or OWNER/NAME on the Hugging Face hub."""
    loss: Annotated[str, one_of("sdstoolkit.distill")] = "sds"
    """The loss to follow."""
    canvas: Annotated[str, one_of("sdstoolkit.canvas")] = "pixels"
    """What is optimised."""
    seeds: Annotated[str, tyro.conf.arg(metavar="SEEDS")] = "0"
    """The images to make, one a seed: numbers and ranges, for example 0-3,7."""
    steps: Annotated[int, Range(low=1)] = 300
    """Steps of optimisation: 1 or more."""
    lr: Annotated[
        float | None,
        Range(above=0),
        tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: the canvas's own)"),
    ] = None
    """Learning rate of Adam, in units of the canvas's parameters a step: above 0."""
    scale: Annotated[float | None, Range()] = None
    """Guidance scale, by default what suits the loss: any finite number; 1 is no guidance."""
    negative_prompt: str = ""
    """What to steer away from; by default the empty prompt."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1, ...; auto is a GPU if there is one."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Numbers the network computes in."""
    batch_size: Annotated[int, Range(low=1)] = 4
    """Images at a time: 1 or more; more are quicker and take more memory."""


def run(options: Options) -> int:
    """Make the images that are missing; 1 if one of them could not be finished."""
    from sdstoolkit import jobs

    seeds = jobs.parse_seeds(options.seeds)
    used = options.loss, options.canvas
    options.check(*used)
    deciding = {k: v for k, v in options.deciding(*used).items() if k not in EXECUTION}
    if options.loss in TOGETHER:
        deciding["seeds"] = list(seeds)
    job = jobs.Job(options.out, command="optimize", options=deciding, seeds=seeds)
    if job.todo:
        make(job, options)
    return job.report()


def make(job: "Job", options: Options) -> None:
    """Load, optimise batch after batch, and draw what came out."""
    import torch

    from sdstoolkit import images, jobs, load, optimize, plots

    device = jobs.pick_device(options.device)
    prior = load(options.model, device=device, dtype=getattr(torch, options.dtype))
    source = images.read_image(options.source).to(device) if options.source else None

    def begin(seeds: tuple[int, ...]) -> Any:
        canvas = make_canvas(options, prior, seeds, source)
        loss = make_loss(options, prior, source)
        return canvas, optimize(canvas, loss, steps=options.steps, lr=options.lr)

    together = options.loss in TOGETHER
    begin(job.todo if together else job.todo[:1])  # what is wrong shows here
    prior.drop_text()
    with job, jobs.progress(len(job.todo) * options.steps) as tell:
        job.note(device=device, threads=torch.get_num_threads(), model=prior.score.describe())
        size = len(job.seeds) if together else options.batch_size
        for seeds in job.batches(size):
            job.follow(*begin(seeds), total=options.steps, tell=tell)
        shown = job.seeds[:SHOWN]
        with job.file("grid.png") as path:
            images.write_image(path, images.grid(torch.cat([job.read(seed) for seed in shown])))
        every = jobs.reading_period(options.steps)
        curves = {f"seed {seed}": job.record["seeds"][str(seed)]["loss"] for seed in shown}
        if any(curves.values()):
            with job.file("loss.png") as path:
                at, label = range(every, options.steps + 1, every), "mean squared residual"
                plots.loss_curve(path, curves, steps=at, label=label)


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
