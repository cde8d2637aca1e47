"""Make images from a prompt, by score distillation.

  sds optimize "a red heart on a white background" --seeds 0-7 --scale 50 --out hearts
  sds optimize --prompts prompts.txt --seeds 0-3 --out many

Every seed has its own canvas and its own noise, so that its image depends neither on the others
nor on how many are made at once. The folder then holds

  000000.png        the image of seed 0, and so on
  000000-steps.png  how it came to be
  grid.png          the images side by side, at most 64
  loss.png          the loss over the steps, one draw of noise each
  results.jsonl     a line an image: its prompt, state, steps, last loss and hash
  manifest.json     what is needed to make them again, and the hash of every file

With --prompts FILE it holds a folder a prompt, and sheet.png. Ctrl-C keeps what was made so far;
the same command goes on from there. torchrun and accelerate share the images: docs/scaling.md.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sdstoolkit.cli import Range, launch, one_of, plugin

if TYPE_CHECKING:
    from sdstoolkit.batch import Batch
    from sdstoolkit.jobs import Job



@dataclass(frozen=True, kw_only=True)
class Options:
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
    """Images at a time in each process: 1 or more; halved where they do not fit into memory."""
    checkpoint_every: Annotated[int, Range(low=0)] = 100
    """Steps between two checkpoints: 0 or more; 0 writes none but on SIGTERM."""
    processes: Annotated[int | None, Range(low=1), tyro.conf.arg(metavar="INT")] = None
    """How many processes there must be: 1 or more; by default what the launcher was told."""


def run(options: Options) -> int:
    """Make the images that are missing; 1 if one of them could not be finished."""
    from sdstoolkit import runs

    return runs.run_batch(options, make, command="optimize")


def make(works: "Batch", options: Options) -> None:
    """Load, optimise batch after batch, and draw what came out."""
    import torch

    from sdstoolkit import Canvas, Distiller, jobs, load, optimize

    loss_of = plugin("sdstoolkit.distill", options.loss, Distiller)
    canvas_of = plugin("sdstoolkit.canvas", options.canvas, Canvas)
    device = jobs.pick_device(options.device)
    prior = load(options.model, device=device, dtype=getattr(torch, options.dtype))

    def begin(job: "Job", seeds: tuple[int, ...]) -> Any:
        asked = job.record["options"]
        prompt, negative = asked["prompt"] or None, asked["negative_prompt"] or None
        loss = loss_of(prior, prompt, negative=negative, scale=options.scale)
        canvas = canvas_of(prior, n=len(seeds), seed=seeds)
        return canvas, optimize(canvas, loss, steps=options.steps, lr=options.lr)

    for job in works.jobs:
        begin(job, job.seeds[:1])  # what is wrong shows here, before anything is written
    prior.drop_text()
    total, every = options.steps, options.checkpoint_every
    with works, jobs.progress(works.mine * total) as tell:
        works.note(device=device, threads=torch.get_num_threads(), model=prior.score.describe())
        for job, part in works.parts(options.batch_size):
            with part as seeds:
                job.follow(*begin(job, seeds), total=total, tell=tell, checkpoint_every=every)
        works.finish()


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
