"""Restore an image: fill a hole, take out a blur, enlarge, colour; with a pretrained model.

  sds restore holed.png --operator inpaint --mask hole.png --out filled
  sds restore small.png --operator downsample --factor 4 --method mmps --out large

IMAGE is what was measured; the prior says what is likely. A mask is white where to fill. The
methods want a model of pixels, but for dps, which also takes a latent one. The folder then holds

  000000.png        a restored image, one a seed
  measured.png      what was given
  grid.png          the images side by side
  manifest.json     what is needed to make them again, and the hash of every file
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sdstoolkit.cli import Range, launch
from sdstoolkit.pipelines._loading import Loading
from sdstoolkit.pipelines._telling import Telling

if TYPE_CHECKING:
    from sdstoolkit.jobs import Job


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds restore` takes, with its defaults."""

    image: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="IMAGE")]]
    """What was measured: with a hole, blurred, small, or grey."""
    operator: Literal["inpaint", "blur", "downsample", "grey"]
    """What happened to it."""
    model: str = "shapes-pixel"
    """A bundled model, a diffusers folder, or OWNER/NAME on the hub; shapes with dps alone."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder to write: a new or an empty one, or one to resume."""
    mask: str = ""
    """For inpaint: an image that is white where to fill and black elsewhere."""
    blur: Annotated[float, Range(above=0)] = 2.0
    """For blur: its sigma in pixels: above 0."""
    factor: Annotated[int, Range(low=2)] = 4
    """For downsample: how many times smaller: 2 or more."""
    noise: Annotated[float, Range(low=0, high=1)] = 0.01
    """Standard deviation of the measurement's noise, in an image from 0 to 1: 0 to 1."""
    method: Literal["dps", "pigdm", "mmps", "diffpir", "repaint"] = "pigdm"
    """How; repaint is for inpaint alone."""
    prompt: str = ""
    """What the image shows, for a model that reads prompts."""
    scale: Annotated[float, Range()] = 1.0
    """Guidance scale: any finite number; 1 is no guidance."""
    steps: Annotated[int, Range(low=1)] = 100
    """Steps of sampling: 1 or more."""
    eta: Annotated[float, Range(low=0, high=1)] = 1.0
    """Share of new noise in a step: 0 to 1."""
    seeds: Annotated[str, tyro.conf.arg(metavar="SEEDS")] = "0"
    """The images to make, one a seed: numbers and ranges, for example 0-3,7."""
    batch_size: Annotated[int, Range(low=1)] = 4
    """Images at a time: 1 or more."""
    loading: Loading = field(default_factory=Loading)
    telling: Telling = field(default_factory=Telling)


def run(options: Options) -> int:
    """Make the images that are missing."""
    from sdstoolkit import runs

    return runs.run(options, make, command="restore", files=("image", "mask"))


def make(job: "Job", options: Options) -> None:
    """Load, restore batch after batch, and lay out what came out."""
    import torch

    from sdstoolkit import ClassifierFree, images, jobs, restoration

    mode: Any = "L" if options.operator == "grey" else "RGB"
    measured = images.read_image(options.image, mode=mode)
    mask = images.read_image(options.mask, mode="L") if options.mask else None
    operator = restoration.operator_of(options, mask)
    prior = options.loading.open(options.model)
    prior = options.telling.tell(prior, image=measured, mask=mask)
    condition = options.telling.condition(prior, options.prompt)
    score = prior.score
    if options.scale != 1:
        score = ClassifierFree(score, prior.condition(None), scale=options.scale)
    sampler, codec = restoration.sampler_of(options, score, prior.codec, operator, measured)
    with job, jobs.progress(len(job.mine) * options.steps) as tell:
        job.note(**options.loading.facts(prior, score))
        job.write("measured.png", measured)
        for seeds in job.batches(options.batch_size):
            walk = sampler.steps(len(seeds), condition, seeds)
            x = next(walk)
            for x in walk:  # noqa: B007
                tell(len(seeds), None)
            with torch.no_grad():
                found = codec.decode(x.to(prior.device)).float().cpu()
            for seed, image in zip(seeds, found, strict=True):
                job.keep(seed, image, state="done", steps=options.steps)
        if job.gather():
            shown = torch.cat([job.read(seed) for seed in job.seeds[:64]])
            job.write("grid.png", images.grid(shown))


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
