"""Curves of a training for the programs that draw them while it runs, by accelerate's trackers.

    tensorboard   event files in a folder: tensorboard --logdir FOLDER
    wandb         Weights & Biases, by its own settings: WANDB_MODE=offline keeps the run here

A figure is named STAGE/FIGURE and has the stage's own step. Nothing is tracked unless asked for.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["KINDS", "Trackers"]

KINDS = ("tensorboard", "wandb")


class Trackers:
    """Where the figures of one training go; a context, and a callable within it.

    Args:
        kinds: Of `KINDS`; none tracks nothing.
        folder: Where their files are written, in a folder "trackers".
        project: The name of the training.
        values: Its options, which are shown beside the curves.

    Raises:
        ValueError: A package is not installed.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        *,
        folder: Path,
        project: str,
        values: Mapping[str, bool | str | float | None],
    ) -> None:
        for kind in kinds:
            if find_spec(kind) is None:
                raise ValueError(
                    f"{kind} is not installed, expected it for --track {kind}: pip install {kind}"
                )
        self.kinds, self.project, self.values = tuple(dict.fromkeys(kinds)), project, dict(values)
        self.folder = folder / "trackers"
        self._opened: list[Any] = []
        self._stages: set[str] = set()

    def __enter__(self) -> "Trackers":
        """Begin.

        Raises:
            ValueError: One of them does not start; Weights & Biases, for example, without a key.
        """
        for kind in self.kinds:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._opened.append(self._open(kind))
            except Exception as error:  # whatever their libraries raise
                line = str(error).strip().partition("\n")[0].rstrip(".")
                raise ValueError(f"{kind} does not start: {line}") from None
        return self

    def _open(self, kind: str) -> Any:
        from accelerate import PartialState
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        PartialState()  # the trackers' own log wants to know which process this is
        tracker: Any
        if kind == "tensorboard":
            tracker = TensorBoardTracker(self.project, self.folder)
        else:
            tracker = WandBTracker(f"sdstoolkit-{self.project}", dir=str(self.folder))
        tracker.start()
        tracker.store_init_configuration(self.values)
        return tracker

    def __call__(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Note figures of a stage at a step of its own."""
        named = {f"{stage}/{name}": value for name, value in figures.items()}
        for tracker in self._opened:
            if tracker.name == "wandb":  # its own step never falls, and stages begin anew
                if stage not in self._stages:
                    tracker.tracker.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
                tracker.log(named | {f"{stage}/step": step})
            else:
                tracker.log(named, step=step)
        self._stages.add(stage)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all files."""
        for tracker in self._opened:
            tracker.finish()
        self._opened.clear()
