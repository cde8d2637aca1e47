"""Say what a model is, what it weighs, and what a step of score distillation with it will cost.

  sds info shapes
  sds info OWNER/NAME --dtype bfloat16 --image photo.png --plot schedule.png

The costs are counted without running the network. With an image, the floor is how close the
autoencoder alone brings it back; with a plot, alpha, sigma and the log-SNR of the noise schedule
are drawn over the times.
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from sdstoolkit.cli import Range, launch
from sdstoolkit.pipelines._loading import Loading


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds info` takes, with its defaults."""

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """The bundled model (shapes), a diffusers folder, or OWNER/NAME on the Hugging Face hub."""
    image: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """An image of a size that the model takes, for the floor of its reconstruction."""
    plot: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Where to draw the noise schedule: .png, .svg or .pdf."""
    images: Annotated[int, Range(low=1)] = 1
    """Images at a time, for the costs: 1 or more."""
    loading: Loading = field(default_factory=lambda: Loading(device="cpu"))


def run(options: Options) -> int:
    """Load the model and print what it is."""
    import torch

    from sdstoolkit import inspection, plots, read_image

    image = None if options.image is None else read_image(options.image)
    prior = options.loading.open(options.model)
    score, codec = prior.score, prior.codec
    about = score.describe()
    print(f"model             {options.model}: {type(score).__name__}, takes {prior.takes}")
    print(f"parameterisation  {_numbers(about.pop('parameterization'))}")
    print(f"schedule          {_numbers(about.pop('schedule'))}")
    for end, t in (("clean", 0.0), ("noise", 1.0)):
        (alpha, sigma), log_snr = (
            score.schedule(torch.tensor(t).double()),
            score.schedule.log_snr(t),
        )
        print(f"  t = {t:g} ({end})   alpha {alpha:.6g}  sigma {sigma:.6g}  log-SNR {log_snr:.6g}")
    h, w = prior.size
    unit = codec.multiple * codec.patch
    print(f"images            {h} x {w}, or any multiples of {unit}; x_0 is {list(score.shape)}")
    for key in ("shift", "additions"):
        if key in about:
            value = about[key] or "by the size of the image"
            print(f"{key:<17} {', '.join(value) if isinstance(value, list) else value}")
    total = 0
    for part in inspection.weights(prior):
        total += part.bytes
        kinds = ", ".join(part.dtypes)
        print(f"{part.part:<17} {part.parameters:,} parameters, {_gib(part.bytes)} ({kinds})")
    if image is not None:
        print(f"autoencoder alone {inspection.reconstruction(prior, image):.2f} dB on the image")
    try:
        told = [prior.condition()] * (2 if prior.text else 1)  # guidance compares two
        step = inspection.cost(prior, told, size=prior.size, n=options.images)
        print(
            f"one step of SDS   {step.rows} rows, {step.encodings} encoded,"
            f" {step.operations / 1e12:.3g} TFLOP, {_gib(step.kept)} kept for the way back,"
            f" {_gib(total + step.kept)} with the weights"
        )
    except ValueError as error:
        print(f"one step of SDS   not counted: {error}")
    if options.plot is not None:
        print(
            f"plot              {plots.schedules(options.plot, {options.model: score.schedule})}"
        )
    return 0


def _numbers(about: object) -> str:
    """A description in one line: the name, then its numbers."""
    told = dict(about) if isinstance(about, dict) else {}
    name = told.pop("name", about)
    return f"{name}" + "".join(f", {key} {value}" for key, value in told.items())


def _gib(size: float) -> str:
    return f"{size / 2**30:.3f} GiB"


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
