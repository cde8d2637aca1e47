"""Train a model from nothing, on data that is made on the spot or comes with a library.

    sds train shapes --run runs/shapes --out runs/shapes/model
    sds train shapes-pixel --run runs/pixel --out runs/pixel/model
    sds train digits --run runs/digits --out runs/digits/model
    sds train moons --run runs/moons --out runs/moons/model

The run folder keeps the data and a checkpoint of every stage: the same command goes on where it
was stopped. Then the out folder holds the model, which other verbs take as `--model DIR` if it is
of images, with its model card, the loss curves and pictures of what it can do.

A batch is shared by the processes of torchrun or accelerate launch, or worked on in --accumulate
pieces; the run stays that of its seed, to the rounding of sums.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sdstoolkit.cli import Range, launch

if TYPE_CHECKING:
    from sdstoolkit.toy.training import History, Share

    Trained = tuple[dict[str, History], str]  # the history of each stage, and the card
SHARED = ("shapes", "shapes-pixel")  # what several processes train, or in pieces
SUITS = {"drawings": ("shapes", "shapes-pixel"), "steps": ("shapes-pixel", "digits", "moons")}
SUITS |= dict.fromkeys(("start", "autoencoder", "text", "denoiser"), ("shapes",))
SUITS |= dict.fromkeys(("accumulate", "precision"), SHARED)


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
    accumulate: Annotated[int, Range(low=1)] = 1
    """Pieces that a batch is worked on in, which take less memory: 1 or more, a divisor of it."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of products; auto is bfloat16 where the processor multiplies in it. Weights are float32."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where to send curves while it trains, one or both; tensorboard writes RUN/trackers."""
    processes: Annotated[int | None, Range(low=1), tyro.conf.arg(metavar="INT")] = None
    """How many processes there must be: 1 or more; by default what the launcher was told."""


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
    from sdstoolkit import jobs, tracking
    from sdstoolkit.studies.bundled import leave
    from sdstoolkit.toy.training import Share

    us, run = jobs.join(options.processes), Path(options.run)
    if us.world > 1 and options.what not in SHARED:
        raise ValueError(f"{options.what} is trained by one process, {us.world} were started")
    kinds = options.track if us.is_main else ()
    told = {k: v for k, v in vars(options).items() if k != "track"}
    with tracking.Trackers(kinds, folder=run, project=options.what, values=told) as curves:
        mean = us.mean if us.world > 1 else None
        share = Share(us.rank, us.world, mean, options.accumulate, options.precision, curves)
        histories, card = train(options, run, out, share)
    if us.is_main:
        leave(out, histories, card)
        print(f"{out}: trained, look at README.md and the pictures beside it")
    us.wait()
    return 0


def train(options: Options, run: Path, out: Path, share: "Share") -> "Trained":
    """What was asked for."""
    from sdstoolkit.studies import bundled, digits, points
    from sdstoolkit.toy.bundle import Budget

    seed, steps, drawings = options.seed, options.steps, options.drawings
    if options.what == "shapes":
        given = {field.name: getattr(options, field.name) for field in fields(Budget)}
        budget = Budget(**{name: v for name, v in given.items() if v is not None})
        start = None if options.start is None else Path(options.start)
        return bundled.train_shapes(run, out, budget, start=start, share=share)
    if options.what == "shapes-pixel":
        much = {"drawings": drawings or 16_384, "steps": steps or 2_500}
        return bundled.train_shapes_pixel(run, out, seed=seed, share=share, **much)
    if options.what == "digits":
        return digits.train(run, out, steps=steps or 3_000, seed=seed, track=share.track)
    return points.train(run, out, steps=steps or 3_000, seed=seed, track=share.track)


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
