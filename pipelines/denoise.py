"""Remove Gaussian noise from an image, with a pretrained model of pixels.

  sds denoise noisy.png --sigma 0.2 --out clean
  sds denoise noisy.png --model FOLDER --out clean

Sigma is in units of the image, whose values go from 0 to 1. Without it, it is estimated from the
finest details of the image, and said. One network evaluation. The folder then holds

  000000.png        the denoised image
  manifest.json     what is needed to make it again, and the hash of every file
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sdstoolkit.cli import Range, launch

if TYPE_CHECKING:
    from sdstoolkit.jobs import Job


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds denoise` takes, with its defaults."""

    image: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="IMAGE")]]
    """The noisy image, of the size that the model takes."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder to write: a new or an empty one."""
    model: str = "shapes-pixel"
    """A model of pixels: the bundled one, a diffusers folder, or OWNER/NAME on the hub."""
    sigma: Annotated[float | None, Range(above=0), tyro.conf.arg(metavar="FLOAT")] = None
    """Standard deviation of the noise, in units of an image from 0 to 1: above 0."""
    prompt: str = ""
    """What the image shows, for a model that reads prompts."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1, ...; auto is a GPU if there is one."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Numbers the network computes in."""


def run(options: Options) -> int:
    """Denoise the image, unless that was done before."""
    from sdstoolkit import runs

    return runs.run(options, make, command="denoise", files=("image",))


def make(job: "Job", options: Options) -> None:
    """Load, denoise, and keep what came out."""
    import torch

    from sdstoolkit import jobs, load, read_image, tweedie

    noisy = read_image(options.image)
    device = jobs.pick_device(options.device)
    prior = load(options.model, device=device, dtype=getattr(torch, options.dtype))
    condition = prior.condition(options.prompt or None)
    clean = tweedie.denoise_image(prior, noisy.to(device), options.sigma, condition)
    sigma = float(clean.sigma)
    if options.sigma is None:
        print(f"the noise was estimated: sigma is {sigma:.4f}")
    with job:
        job.note(device=device, model=prior.score.describe())
        job.keep(0, clean.x_0.float().cpu(), state="done", steps=1, sigma=sigma)
        job.gather()


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
