"""Model cards: what a model was trained on, for how long, what it reached, what it is not for."""

import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sdstoolkit.toy.bundle import Budget
    from sdstoolkit.toy.training import History

__all__ = ["score", "shapes", "shapes_pixel", "table"]


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table of rows with the same columns."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([*row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _training(histories: "Mapping[str, History]") -> str:
    rows = [
        {
            "stage": name,
            "steps": f"{history.steps[-1]:,}",
            "first loss": f"{history.losses[0]:.4f}",
            "last loss": f"{history.losses[-1]:.4f}",
            "time": f"{history.seconds / 60:.0f} min",
        }
        for name, history in histories.items()
    ]
    where = f"{platform.machine()} with torch {torch.__version__}"
    return f"**Training.** On {where}; losses are training losses.\n\n{table(rows)}"


def shapes(budget: "Budget", histories: "Mapping[str, History]") -> str:
    """The card of `shapes`, in Markdown."""
    return f"""# shapes

A text-to-image latent diffusion model of 64 x 64 drawings, made to check diffusion code offline.
It is an ordinary `StableDiffusionPipeline` folder and was trained by sdstoolkit alone
(`sds train shapes`, seed {budget.seed}); its licence is the project's, Apache-2.0.

**World.** One or two of circle, square, triangle, heart, star, ring, cross, diamond, x, in red,
green, blue, yellow, orange, purple, white or black, small or large, on a background of one of
these colours; "left of", "right of", "above", "below"; "blurry", "noisy", "oversaturated", "low
quality", "sharp", "high quality". Other words are refused.

**Data.** {budget.drawings:,} drawings with four random captions each. One fifth of the (shape,
colour, background) combinations was left out, to be tested on.

{_training(histories)}

**Quality.** `python benchmarks/shapes_quality.py` asks an independent classifier; what it said is
in docs/benchmarks/shapes_quality.md of the project.

**Not for** anything but tests, demonstrations and teaching: it knows nothing of the world.
"""


def shapes_pixel(*, drawings: int, seed: int, histories: "Mapping[str, History]") -> str:
    """The card of `shapes-pixel`, in Markdown."""
    return f"""# shapes-pixel

An unconditional diffusion model of 32 x 32 pixels, made to check diffusion code offline: for
denoising, restoration and likelihoods, whose noise is Gaussian in pixels alone. It is an ordinary
`DDPMPipeline` folder, a `UNet2DModel` that predicts v, and was trained by sdstoolkit alone
(`sds train shapes-pixel`, seed {seed}); its licence is the project's, Apache-2.0.

**World.** That of `shapes`: one or two of circle, square, triangle, heart, star, ring, cross,
diamond, x, in red, green, blue, yellow, orange, purple, white or black, small or large, on a
background of one of these colours; never damaged.

**Data.** {drawings:,} drawings of 64 x 64, reduced to half by the mean of 2 x 2 pixels, and
mirrored at random. One fifth of the (shape, colour, background) combinations was left out, to be
tested on.

{_training(histories)}

**Quality.** `python benchmarks/shapes_pixel.py` measures what it gains over noise at each level;
what it said is in docs/benchmarks/shapes_pixel.md of the project.

**Not for** anything but tests, demonstrations and teaching: it knows nothing of the world.
"""


def score(
    title: str, what: str, histories: "Mapping[str, History]", tables: Mapping[str, str]
) -> str:
    """The card of a small score network, in Markdown.

    Args:
        title: The first line.
        what: A paragraph on what it is.
        histories: Of the training, by stage.
        tables: What it reached: Markdown by heading.
    """
    parts = [f"# {title}", what, _training(histories)]
    for heading, found in tables.items():
        parts += [f"## {heading}", found]
    return "\n\n".join(parts) + "\n"
