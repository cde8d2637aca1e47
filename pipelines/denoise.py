"""Remove Gaussian noise from an image, with a pretrained model of pixels.

  sds denoise noisy.png --sigma 0.2 --out clean
  sds denoise noisy.png --model FOLDER --out clean

Sigma is in units of the image, whose values go from 0 to 1. Without it, it is estimated from the
finest details of the image, and said. One network evaluation. The folder then holds

  000000.png        the denoised image
  manifest.json     what is needed to make it again, and the hash of every file
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from sdstoolkit.cli import Range, launch
from sdstoolkit.pipelines._loading import Loading

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
    loading: Loading = field(default_factory=Loading)


def run(options: Options) -> int:
    """Denoise the image, unless that was done before."""
    from sdstoolkit import runs

    return runs.run(options, make, command="denoise", files=("image",))


def make(job: "Job", options: Options) -> None:
    """Load, denoise, and keep what came out."""
    from sdstoolkit import read_image, tweedie

    noisy = read_image(options.image)
    prior = options.loading.open(options.model)
    condition = prior.condition(options.prompt or None)
    clean = tweedie.denoise_image(prior, noisy.to(prior.device), options.sigma, condition)
    sigma = float(clean.sigma)
    if options.sigma is None:
        print(f"the noise was estimated: sigma is {sigma:.4f}")
    with job:
        job.note(**options.loading.facts(prior))
        job.keep(0, clean.x_0.float().cpu(), state="done", steps=1, sigma=sigma)
        job.gather()


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
