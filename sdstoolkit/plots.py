"""Figures of what a run measured; each function writes one file and returns its path.

Figures are drawn off screen, without the global state of pyplot, and written as images are:
complete or not at all.
"""

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdstoolkit._files import write_atomically
from sdstoolkit.noise import Schedule

__all__ = ["loss_curve", "schedules", "score_field", "trajectories"]

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


def score_field(
    path: str | os.PathLike[str],
    fields: Mapping[str, Callable[[Tensor], Tensor]],
    *,
    log_prob: Callable[[Tensor], Tensor] | None = None,
    extent: tuple[float, float] = (-3.0, 3.0),
    arrows: int = 20,
) -> Path:
    r"""Draw score fields in the plane side by side, as arrows over a density.

    Arrows are shortened to $ s / (1 + |s|) $, so that the steep flanks do not hide the rest.

    Args:
        path: ``.png``, ``.svg`` or ``.pdf``.
        fields: One field a name, from ``[n, 2]`` to ``[n, 2]``: a learned one and the exact one.
        log_prob: The log density to draw under them, from ``[n, 2]`` to ``[n]``; None draws none.
        extent: The lower and upper end of both axes.
        arrows: How many along each axis.

    Returns:
        The path.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: No fields, a field of other shape, ends that do not rise, or an unknown suffix.
    """
    low, high = extent
    if not fields or not low < high or arrows < 2:
        raise ValueError(
            f"{len(fields)} fields, extent {extent} and {arrows} arrows cannot be drawn, expected "
            "one field, a rising extent and two arrows or more"
        )
    figure, axes = _figure(columns=len(fields))
    fine, coarse = torch.linspace(low, high, 160), torch.linspace(low, high, arrows)
    at = torch.cartesian_prod(coarse, coarse)
    for axis, (name, field) in zip(axes, fields.items(), strict=True):
        if log_prob is not None:
            density = log_prob(torch.cartesian_prod(fine, fine)).detach().exp()
            image = density.reshape(160, 160).T.numpy()
            axis.imshow(image, origin="lower", extent=(low, high, low, high), cmap="Blues")
        s = field(at).detach()
        if s.shape != at.shape:
            raise ValueError(f"{name} returned {list(s.shape)} for {list(at.shape)} points")
        s = s / (1 + s.norm(dim=1, keepdim=True))
        axis.quiver(*at.T.numpy(), *s.T.numpy(), angles="xy", pivot="mid", width=0.003)
        axis.set(title=name, xlim=extent, ylim=extent, aspect="equal")
        axis.grid(False)
    return _save(figure, path)


def trajectories(
    path: str | os.PathLike[str],
    states: Sequence[Tensor],
    *,
    shown: int = 20,
    title: str = "",
) -> Path:
    """Draw where rows went: the first ones as lines, and the last states of all as points.

    Args:
        path: ``.png``, ``.svg`` or ``.pdf``.
        states: What a sampler's ``steps`` gave, ``[n, 2]`` each, two of them or more.
        shown: How many rows are drawn as lines.
        title: Words above the figure.

    Returns:
        The path.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: Fewer than two states, states that are not in the plane, or an unknown suffix.
    """
    shapes = {tuple(state.shape) for state in states}
    if len(states) < 2 or len(shapes) > 1 or states[0].shape[1:] != (2,):
        raise ValueError(
            f"{len(states)} states of the shapes {sorted(shapes)} cannot be drawn, expected two "
            "or more of [n, 2]"
        )
    figure, (axis,) = _figure(columns=1)
    way = torch.stack(list(states)).detach().cpu()
    axis.scatter(*way[-1].T.numpy(), s=6, alpha=0.5, color="black", linewidths=0)
    for row in range(min(shown, way.shape[1])):
        axis.plot(*way[:, row].T.numpy(), linewidth=0.7, alpha=0.6)
    axis.set(title=title, aspect="equal")
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
