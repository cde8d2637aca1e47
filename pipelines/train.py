"""Train a model from nothing, on data that is made on the spot or comes with a library.

    sds train shapes --run runs/shapes --out runs/shapes/model
    sds train shapes-pixel --run runs/pixel --out runs/pixel/model
    sds train digits --run runs/digits --out runs/digits/model
    sds train moons --run runs/moons --out runs/moons/model

The run folder keeps the data and a checkpoint of every stage: the same command goes on where it
was stopped. Then the out folder holds the model, which other verbs take as `--model DIR` if it is
of images, with its model card, the loss curves and pictures of what it can do.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sdstoolkit.cli import Range, launch

if TYPE_CHECKING:
    from sdstoolkit.toy.training import History

    Trained = tuple[dict[str, History], str]  # the history of each stage, and the card
SUITS = {"drawings": ("shapes", "shapes-pixel"), "steps": ("shapes-pixel", "digits", "moons")}
SUITS |= dict.fromkeys(("start", "autoencoder", "text", "denoiser"), ("shapes",))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a model from nothing, on data that is made on the spot or comes with a library."""

    what: tyro.conf.Positional[Literal["shapes", "shapes-pixel", "digits", "moons"]] = "shapes"
    """shapes (text to image), shapes-pixel (unconditional pixels), digits or moons (scores)."""
    run: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """Folder of the data and the checkpoints; a run in it goes on."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """Folder of the finished model; a new or an empty one."""
    start: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """A model folder of shapes to go on from, whose autoencoder is kept; by default nothing."""
    drawings: Annotated[int | None, Range(low=512), tyro.conf.arg(metavar="INT")] = None
    """Drawings to learn from: 512 or more; by default 65,536, and 16,384 for shapes-pixel."""
    autoencoder: Annotated[int, Range(low=1)] = 3_500
    """Steps of shapes' autoencoder, 16 drawings each: 1 or more."""
    text: Annotated[int, Range(low=1)] = 1_500
    """Steps of shapes' text encoder, 128 captions each: 1 or more."""
    denoiser: Annotated[int, Range(low=1)] = 8_000
    """Steps of shapes' denoiser, 64 latents each: 1 or more."""
    steps: Annotated[int | None, Range(low=1), tyro.conf.arg(metavar="INT")] = None
    """Steps of the other models: 1 or more; by default 2,500, 3,000 (digits, moons)."""
    seed: Annotated[int, Range(low=0)] = 0
    """The number that names the run: 0 or more."""


def run(options: Options) -> int:
    """Train, pack, and write the card."""
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {options.out!r} is not empty, expected a new or an empty folder")
    for field in fields(options):
        fits = SUITS.get(field.name, (options.what,))
        if getattr(options, field.name) != field.default and options.what not in fits:
            raise ValueError(
                f"--{field.name} is no option of {options.what}, but of {', '.join(fits)}"
            )
    makers = {"shapes": shapes, "shapes-pixel": shapes_pixel, "digits": digits, "moons": moons}
    histories, card = makers[options.what](options, out)
    from sdstoolkit import plots

    (out / "README.md").write_text(card, encoding="utf-8")
    for name, history in histories.items():
        title = f"{name}: training loss"
        file = out / f"{name.replace(' ', '_')}.png"
        plots.loss_curve(file, {name: history.losses}, steps=history.steps, title=title)
    print(f"{out}: trained, look at README.md and the pictures beside it")
    return 0


def shapes(options: Options, out: Path) -> "Trained":
    """The text-to-image model."""
    from sdstoolkit.toy import cards
    from sdstoolkit.toy.bundle import Budget, train_shapes

    given = {field.name: getattr(options, field.name) for field in fields(Budget)}
    budget = Budget(**{name: v for name, v in given.items() if v is not None})
    start = None if options.start is None else Path(options.start)
    if start is not None and not (start / "model_index.json").is_file():
        raise ValueError(f"--start {options.start!r} is no model folder: no model_index.json")
    histories = train_shapes(Path(options.run), out, budget, start=start)
    return histories, cards.shapes(budget, histories)


def shapes_pixel(options: Options, out: Path) -> "Trained":
    """The model of pixels."""
    from sdstoolkit.toy import cards, pixels

    drawings, steps, seed = options.drawings or 16_384, options.steps or 2_500, options.seed
    run = Path(options.run)
    found = pixels.train_shapes_pixel(run, out, drawings=drawings, steps=steps, seed=seed)
    return found, cards.shapes_pixel(drawings=drawings, seed=seed, histories=found)


def digits(options: Options, out: Path) -> "Trained":
    """An NCSN of handwritten digits, judged by an independent classifier."""
    from sdstoolkit.studies import digits as studies

    return studies.train(Path(options.run), out, steps=options.steps or 3_000, seed=options.seed)


def moons(options: Options, out: Path) -> "Trained":
    """A score of two half moons, beside the exact one."""
    from sdstoolkit.studies import points as studies

    return studies.train(Path(options.run), out, steps=options.steps or 3_000, seed=options.seed)


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
