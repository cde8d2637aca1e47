"""Weigh images: how likely a model finds them, in bits a dimension, likeliest first.

  sds likelihood *.png --model FOLDER --probes 8 --steps 50 --out weighed

The density along the probability flow, with the trace of its Jacobian from random probes and the
standard error of that. For a model of pixels, 8-bit images get uniform noise of one bin first; a
model of latents gives the density of the latent, not of pixels. The folder then holds

  000000.png        the first image as it was weighed, and so on; ranking.png has them in order
  report.txt, .json a line an image; manifest.json has what is needed to do it again
"""

import json
import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sdstoolkit.cli import Range, launch
from sdstoolkit.pipelines._loading import Loading
from sdstoolkit.pipelines._telling import Telling

if TYPE_CHECKING:
    from sdstoolkit.jobs import Job


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds likelihood` takes, with its defaults."""

    images: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGES")]]
    """The images to weigh, one or more."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder to write: a new or an empty one, or one to resume."""
    model: str = "shapes-pixel"
    """A bundled model, a diffusers folder, or OWNER/NAME on the Hugging Face hub."""
    prompt: str = ""
    """What the images show, for a model that reads prompts."""
    steps: Annotated[int, Range(low=1)] = 25
    """Steps of a Runge-Kutta method of order 4, four evaluations each: 1 or more."""
    probes: Annotated[int, Range(low=2)] = 4
    """Random probes for the trace: 2 or more; the standard error falls as one over their root."""
    batch_size: Annotated[int, Range(low=1)] = 4
    """Images at a time: 1 or more; more are quicker and take more memory."""
    loading: Loading = field(default_factory=Loading)
    telling: Telling = field(default_factory=Telling)


def run(options: Options) -> int:
    """Weigh the images that were not weighed before."""
    from sdstoolkit import runs

    if not options.images:
        raise ValueError("there are no images to weigh, expected one or more")
    seeds = range(len(options.images))
    return runs.run(options, make, command="likelihood", files=("images",), seeds=seeds)


def make(job: "Job", options: Options) -> None:
    """Load, weigh batch after batch, and list what was found."""
    import torch

    from sdstoolkit import KLCodec, images, jobs, likelihood, pictures

    prior = options.loading.open(options.model)
    prior = options.telling.tell(prior)
    condition = options.telling.condition(prior, options.prompt)
    opened = partial(options.telling.read, prior=prior)
    given, latent = [opened(path) for path in options.images], isinstance(prior.codec, KLCodec)
    prior.drop_text()
    with job, jobs.progress(len(job.mine) * options.steps) as tell:
        job.note(**options.loading.facts(prior))
        for seeds in job.batches(options.batch_size):
            image = (255 * torch.cat([given[k] for k in seeds])).round() / 255
            points = image if latent else likelihood.dequantize(image, seed=seeds)
            x_0 = prior.codec.encode(points).detach()
            found = likelihood.log_likelihood(
                prior.score,
                x_0,
                condition,
                steps=options.steps,
                probes=options.probes,
                seed=seeds,
                tell=lambda rows: tell(rows, None),
            )
            bits, error = found.bits_per_dim(offset=0.0 if latent else 7.0), found.standard_error
            for row, seed in enumerate(seeds):
                facts: dict[str, Any] = {
                    "name": options.images[seed],
                    "of": "latent" if latent else "pixels",
                    "log_prob": float(found.log_prob[row]),
                    "log_prob_error": float(error[row]),
                    "bits_per_dim": float(bits[row]),
                    "bits_per_dim_error": float(error[row]) / (x_0[0].numel() * math.log(2)),
                }
                if not found.log_prob[row].isfinite():
                    raise jobs.Failed(f"{facts['name']}: the density is not finite; more --steps")
                job.keep(seed, image[row].cpu(), state="done", steps=options.steps, **facts)
        if not job.gather():
            return
        entries = (job.record["seeds"][str(k)] for k in job.seeds)
        ranked = sorted(entries, key=lambda entry: entry["bits_per_dim"])
        lines = [f"bits a dimension of the {ranked[0]['of']}"]
        line = "{bits_per_dim:8.4f} +- {bits_per_dim_error:.4f}  {name}".format
        lines += [line(**entry) for entry in ranked]
        shown = [job.read(int(entry["file"][:6])) for entry in ranked[:64]]
        job.write("ranking.png", images.strip([pictures.magnify(v, 64) for v in shown]))
        job.write("report.json", json.dumps(ranked, indent=2))
        job.write("report.txt", "\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
