"""Train the bundled model from nothing, on drawings that it makes itself.

    sds train shapes --run runs/shapes --out runs/shapes/model

The run folder keeps the drawings and a checkpoint of every stage: the same command goes on where
it was stopped. Then the out folder holds an ordinary Stable Diffusion model, with its model card
and the loss curves, and `sds optimize PROMPT --model DIR` takes it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sdstoolkit.cli import Range, launch

if TYPE_CHECKING:
    from sdstoolkit.toy.bundle import Budget
    from sdstoolkit.toy.training import History


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the bundled model from nothing, on drawings that it makes itself."""

    what: tyro.conf.Positional[Literal["shapes"]] = "shapes"
    """The model: shapes, text to image, 64 x 64."""
    run: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """Folder of the drawings and the checkpoints; a run in it goes on."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """Folder of the finished model; a new or an empty one."""
    start: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """A model folder to go on from, whose autoencoder is kept; by default nothing."""
    drawings: Annotated[int, Range(low=512)] = 65_536
    """Drawings to learn from: 512 or more."""
    autoencoder: Annotated[int, Range(low=1)] = 3_000
    """Steps of the autoencoder, 16 drawings each: 1 or more."""
    text: Annotated[int, Range(low=1)] = 1_500
    """Steps of the text encoder, 128 captions each: 1 or more."""
    decoder: Annotated[int, Range(low=1)] = 3_000
    """Steps that sharpen the decoder, 16 drawings each: 1 or more."""
    denoiser: Annotated[int, Range(low=1)] = 16_000
    """Steps of the denoiser, 64 latents each: 1 or more."""
    seed: Annotated[int, Range(low=0)] = 0
    """The number that names the run: 0 or more."""


def run(options: Options) -> int:
    """Train, pack, and write the card."""
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {options.out!r} is not empty, expected a new or an empty folder")
    from sdstoolkit import plots
    from sdstoolkit.toy.bundle import Budget, train_shapes

    budget = Budget(
        drawings=options.drawings,
        autoencoder=options.autoencoder,
        text=options.text,
        decoder=options.decoder,
        denoiser=options.denoiser,
        seed=options.seed,
    )
    start = None if options.start is None else Path(options.start)
    if start is not None and not (start / "model_index.json").is_file():
        raise ValueError(
            f"--start {options.start!r} is no model folder, it has no model_index.json"
        )
    histories = train_shapes(Path(options.run), out, budget, start=start)
    (out / "README.md").write_text(card(budget, histories), encoding="utf-8")
    for name, history in histories.items():
        title = f"{name}: training loss"
        file = out / f"{name.replace(' ', '_')}.png"
        plots.loss_curve(file, {name: history.losses}, steps=history.steps, title=title)
    print(f"{out}: trained, look at README.md and the loss curves beside it")
    return 0


def card(budget: "Budget", histories: "dict[str, History]") -> str:
    """The model card, in Markdown."""
    import platform

    import torch

    rows = [
        f"| {name} | {history.steps[-1]:,} | {history.losses[0]:.4f} | {history.losses[-1]:.4f} "
        f"| {history.seconds / 60:.0f} min |"
        for name, history in histories.items()
    ]
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

**Training.** On {platform.machine()} with torch {torch.__version__}; losses are training losses.

| stage | steps | first loss | last loss | time |
|---|---|---|---|---|
{chr(10).join(rows)}

**Quality.** `python benchmarks/shapes_quality.py` asks an independent classifier; what it said is
in docs/benchmarks/shapes_quality.md of the project.

**Not for** anything but tests, demonstrations and teaching: it knows nothing of the world.
"""


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
