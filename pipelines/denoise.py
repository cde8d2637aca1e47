"""Remove Gaussian noise from an image, with a pretrained model of pixels.

  sds denoise noisy.png --sigma 0.2 --model FOLDER --out clean
  sds denoise noisy.png --model FOLDER --out clean

Sigma is in units of the image, whose values go from 0 to 1. Without it, it is estimated from the
finest details of the image, and said. One network evaluation. The folder then holds

  000000.png        the denoised image
  manifest.json     what is needed to make it again, and the hash of every file
"""

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro

from sdstoolkit.cli import Range, launch

EXECUTION = ("out", "device")  # they do not decide on the image


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds denoise` takes, with its defaults."""

    image: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="IMAGE")]]
    """The noisy image, of the size that the model takes."""
    model: str
    """A diffusers folder, or OWNER/NAME on the Hugging Face hub, of a model of pixels."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder to write: a new or an empty one."""
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
    import torch

    from sdstoolkit import jobs, load, read_image, tweedie

    noisy = read_image(options.image)
    deciding = {k: v for k, v in asdict(options).items() if k not in EXECUTION}
    job = jobs.Job(options.out, command="denoise", options=deciding, seeds=(0,))
    if job.todo:
        device = jobs.pick_device(options.device)
        prior = load(options.model, device=device, dtype=getattr(torch, options.dtype))
        condition = prior.condition(options.prompt or None)
        clean = tweedie.denoise_image(prior, noisy.to(device), options.sigma, condition)
        sigma = float(clean.sigma)
        if options.sigma is None:
            print(f"the noise was estimated: sigma is {sigma:.4f}")
        with job:
            job.note(device=device, model=prior.score.describe())
            for seed in job.mine:  # of many processes one is enough
                job.keep(seed, clean.x_0.float().cpu(), state="done", steps=1, sigma=sigma)
    return job.report()


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
