"""Figures of what a run measured; each function writes one file and returns its path.

Figures are drawn off screen, without the global state of pyplot, and written as images are:
complete or not at all.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sdstoolkit._files import write_atomically
from sdstoolkit.noise import Schedule

__all__ = ["loss_curve", "schedules"]

_FORMATS = (".png", ".svg", ".pdf")


def loss_curve(
    path: str | os.PathLike[str],
    values: Mapping[str, Sequence[float | None]],
    *,
    steps: Sequence[int] | None = None,
    title: str = "",
    label: str = "loss",
) -> Path:
    r"""Draw reported values over the steps of an optimisation, on a logarithmic axis.

    The reported value of a distillation loss is one draw of the time and of the noise, so that a
    curve is jagged by nature. Each is drawn lightly, and on it the mean of its last ten values,

    $$ \bar v_k = \frac{1}{10} \sum_{j = k - 9}^{k} v_j . $$

    Args:
        path: ``.png``, ``.svg`` or ``.pdf``.
        values: One curve a name, e.g. one a seed; None or NaN leaves a gap.
        steps: Where the values were read, as many as the longest curve has; by default 0, 1, ...
        title: Words above the figure.
        label: What the values are.

    Returns:
        The path.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: No values, more values than steps, or an unknown suffix.
    """
    longest = max((len(curve) for curve in values.values()), default=0)
    if longest == 0:
        raise ValueError("there are no values to draw, expected one curve or more")
    where = list(range(longest)) if steps is None else list(steps)
    if len(where) < longest:
        raise ValueError(f"{longest} values were read at {len(where)} steps, expected one a value")
    figure, (axes,) = _figure(columns=1)
    for name, curve in values.items():
        seen = torch.tensor([math.nan if v is None else v for v in curve], dtype=torch.float64)
        if len(seen) == 0:
            continue
        (line,) = axes.plot(where[: len(seen)], seen.numpy(), linewidth=0.6, alpha=0.35)
        mean = torch.stack([seen[max(0, k - 9) : k + 1].mean() for k in range(len(seen))])
        axes.plot(
            where[: len(seen)],
            mean.numpy(),
            color=line.get_color(),
            linewidth=1.6,
            marker="o" if len(seen) == 1 else None,
            label=name,
        )
    if any((value or 0) > 0 for curve in values.values() for value in curve):
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel=label, title=title)
    if len(values) <= 12:
        axes.legend(frameon=False)
    return _save(figure, path)


def schedules(path: str | os.PathLike[str], named: Mapping[str, Schedule]) -> Path:
    r"""Draw noise schedules side by side: alpha, sigma and log(alpha^2 / sigma^2) over t.

    Args:
        path: ``.png``, ``.svg`` or ``.pdf``.
        named: One schedule a name.

    Returns:
        The path.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: No schedules, or an unknown suffix.
    """
    if not named:
        raise ValueError("there are no schedules to draw, expected one or more")
    figure, axes = _figure(columns=3)
    t = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    for name, schedule in named.items():
        alpha, sigma = schedule(t)
        for axis, drawn in zip(axes, (alpha, sigma, schedule.log_snr(t)), strict=True):
            axis.plot(t.numpy(), drawn.numpy(), label=name)
    for axis, label in zip(axes, ("alpha", "sigma", "log(alpha$^2$ / sigma$^2$)"), strict=True):
        axis.set(xlabel="t", ylabel=label)
    axes[0].legend(frameon=False)
    return _save(figure, path)


def _figure(*, columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 + 4 * columns, 4), layout="constrained")
    axes = [figure.add_subplot(1, columns, 1 + k) for k in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    return figure, axes


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(
            f"{path.name!r} has no known suffix, expected one of {', '.join(_FORMATS)}"
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=150)
    return write_atomically(path, buffer.getvalue())
