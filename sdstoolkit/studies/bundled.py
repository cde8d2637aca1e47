"""The bundled models from nothing to their folders, and what stands beside a model there."""

from collections.abc import Mapping
from pathlib import Path

from sdstoolkit import plots
from sdstoolkit.toy import bundle, cards, pixels
from sdstoolkit.toy.training import ALONE, History, Share

__all__ = ["leave", "train_shapes", "train_shapes_pixel"]


def train_shapes(
    run: Path,
    out: Path,
    budget: bundle.Budget,
    *,
    start: Path | None = None,
    share: Share = ALONE,
) -> tuple[dict[str, History], str]:
    """Train `shapes`, as `toy.bundle.train_shapes`.

    Args:
        run: Where the data and the checkpoints are kept; a stopped run goes on from there.
        out: The model folder to write.
        budget: How much of everything.
        start: A model folder to go on from.
        share: This process's part of the work.

    Returns:
        The history of each stage by name, and the model card.

    Raises:
        ValueError: `start` is no model folder.
    """
    if start is not None and not (start / "model_index.json").is_file():
        raise ValueError(f"--start {str(start)!r} is no model folder: no model_index.json")
    histories = bundle.train_shapes(run, out, budget, start=start, share=share)
    return histories, cards.shapes(budget, histories)


def train_shapes_pixel(
    run: Path, out: Path, *, drawings: int, steps: int, seed: int = 0, share: Share = ALONE
) -> tuple[dict[str, History], str]:
    """Train `shapes-pixel`, as `toy.pixels.train_shapes_pixel`.

    Args:
        run: Where the data and the checkpoint are kept; a stopped run goes on from there.
        out: The model folder to write.
        drawings: How many to learn from.
        steps: Of 32 drawings.
        seed: Names the run.
        share: This process's part of the work.

    Returns:
        The history of its one stage by name, and the model card.
    """
    made = {"drawings": drawings, "seed": seed}
    histories = pixels.train_shapes_pixel(run, out, steps=steps, share=share, **made)
    return histories, cards.shapes_pixel(histories=histories, **made)


def leave(out: Path, histories: Mapping[str, History], card: str) -> None:
    """Write README.md and a loss curve a stage into the folder of a model.

    Args:
        out: The folder.
        histories: Of the stages, by name.
        card: The model card, in Markdown.
    """
    (out / "README.md").write_text(card, encoding="utf-8")
    for name, history in histories.items():
        title = f"{name}: training loss"
        file = out / f"{name.replace(' ', '_')}.png"
        plots.loss_curve(file, {name: history.losses}, steps=history.steps, title=title)
