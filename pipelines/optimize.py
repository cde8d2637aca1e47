"""Make images from a prompt, by score distillation.

  sds optimize "a red heart on a white background" --out heart
  sds optimize "a red heart on a white background" --seeds 0-7 --scale 50 --out hearts

Every seed has its own canvas and its own noise, so that its image depends neither on the
other seeds nor on how many are made at once. The folder then holds

  000000.png        the image of seed 0, and so on
  000000-steps.png  how it came to be
  grid.png          the images side by side, at most 64
  loss.png          the loss over the steps, jagged because it is one draw of noise a step
  manifest.json     what is needed to make them again, and the hash of every file

Ctrl-C keeps what was made so far; the same command goes on from there.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sdstoolkit.cli import Range, launch, one_of, plugin

if TYPE_CHECKING:
    from sdstoolkit.jobs import Job

SHOWN = 64  # images in grid.png, curves in loss.png


@dataclass(frozen=True, kw_only=True)
class Options:
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
    scale: Annotated[float, Range()] = 30.0
    """Guidance scale: any finite number; 1 is no guidance, 0 ignores the prompt."""
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

    return jobs.run(options, make, command="optimize")


def make(job: "Job", options: Options) -> None:
    """Load, optimise batch after batch, and draw what came out."""
    import torch

    from sdstoolkit import Canvas, Distiller, images, jobs, load, optimize, plots

    loss_of = plugin("sdstoolkit.distill", options.loss, Distiller)
    canvas_of = plugin("sdstoolkit.canvas", options.canvas, Canvas)
    device = jobs.pick_device(options.device)
    prior = load(options.model, device=device, dtype=getattr(torch, options.dtype))

    def begin(seeds: tuple[int, ...]) -> Any:
        prompt, negative = options.prompt or None, options.negative_prompt or None
        loss = loss_of(prior, prompt, negative=negative, scale=options.scale)
        canvas = canvas_of(prior, n=len(seeds), seed=seeds)
        return canvas, optimize(canvas, loss, steps=options.steps, lr=options.lr)

    begin(job.todo[:1])  # what is wrong shows here, before anything is written
    prior.drop_text()
    with job, jobs.progress(len(job.todo) * options.steps) as tell:
        job.note(device=device, threads=torch.get_num_threads(), model=prior.score.describe())
        for seeds in job.batches(options.batch_size):
            job.follow(*begin(seeds), total=options.steps, tell=tell)
        shown = job.seeds[:SHOWN]
        job.write("grid.png", images.grid(torch.cat([job.read(seed) for seed in shown])))
        every = jobs.reading_period(options.steps)
        curves = {f"seed {seed}": job.record["seeds"][str(seed)]["loss"] for seed in shown}
        if any(curves.values()):
            with job.file("loss.png") as path:
                at, label = range(every, options.steps + 1, every), "mean squared residual"
                plots.loss_curve(path, curves, steps=at, label=label)


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
