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
from sdstoolkit.images import write_animation
from sdstoolkit.noise import Schedule

__all__ = [
    "annealing_strip",
    "langevin_animation",
    "loss_curve",
    "moments",
    "schedules",
    "score_field",
    "trajectories",
]

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
    coarse = torch.linspace(low, high, arrows)
    at = torch.cartesian_prod(coarse, coarse)
    for axis, (name, field) in zip(axes, fields.items(), strict=True):
        if log_prob is not None:
            _shade(axis, log_prob, extent)
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
    way = _way(states, plane=True)
    figure, (axis,) = _figure(columns=1)
    axis.scatter(*way[-1].T.numpy(), s=6, alpha=0.5, color="black", linewidths=0)
    for row in range(min(shown, way.shape[1])):
        axis.plot(*way[:, row].T.numpy(), linewidth=0.7, alpha=0.6)
    axis.set(title=title, aspect="equal")
    return _save(figure, path)


def annealing_strip(
    path: str | os.PathLike[str],
    states: Sequence[Tensor],
    *,
    names: Sequence[str] | None = None,
    panels: int = 6,
    title: str = "",
) -> Path:
    """Draw how a cloud of points becomes a sample: some of its states in a row, each to its scale.

    Args:
        path: ``.png``, ``.svg`` or ``.pdf``.
        states: What a sampler's ``steps`` gave, ``[n, 2]`` each, two of them or more.
        names: A word for every state, such as its noise level; by default its number.
        panels: How many are shown, evenly chosen with the first and the last among them.
        title: Words above the figure.

    Returns:
        The path.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: States that are not in the plane, not a name each, fewer than two panels, or an
            unknown suffix.
    """
    way = _way(states, plane=True)
    words = [f"state {k}" for k in range(len(way))] if names is None else list(names)
    if panels < 2 or len(words) != len(way):
        raise ValueError(
            f"{panels} panels and {len(words)} names do not suit {len(way)} states, expected two "
            "panels or more and a name a state"
        )
    chosen = torch.linspace(0, len(way) - 1, min(panels, len(way))).round().long().tolist()
    figure, axes = _figure(columns=len(chosen))
    for axis, k in zip(axes, chosen, strict=True):
        axis.scatter(*way[k].T.numpy(), s=3, alpha=0.5, color="black", linewidths=0)
        axis.set(title=words[k], aspect="equal", adjustable="datalim")
    figure.suptitle(title)
    return _save(figure, path)


def langevin_animation(
    path: str | os.PathLike[str],
    states: Sequence[Tensor],
    *,
    names: Sequence[str] | None = None,
    log_prob: Callable[[Tensor], Tensor] | None = None,
    extent: tuple[float, float] = (-3.0, 3.0),
    frames: int = 60,
    fps: float = 12.0,
) -> Path:
    """Animate points on their way over a density; what is outside of the extent is not seen.

    Args:
        path: ``.gif``, ``.webp`` or ``.png``.
        states: What a sampler's ``steps`` gave, ``[n, 2]`` each, two of them or more.
        names: A word for every state, written above it.
        log_prob: The log density to draw under them, from ``[n, 2]`` to ``[n]``; None draws none.
        extent: The lower and upper end of both axes.
        frames: At most how many, evenly chosen with the first and the last among them.
        fps: Frames a second, above 0.

    Returns:
        The path.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: States that are not in the plane, ends that do not rise, or an unknown suffix.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    way, (low, high) = _way(states, plane=True), extent
    if not low < high or frames < 2:
        raise ValueError(
            f"extent {extent} and {frames} frames cannot be drawn, expected a rising extent and "
            "two frames or more"
        )
    figure, (axis,) = _figure(columns=1)
    figure.set(dpi=80, size_inches=(4, 4.2))
    if log_prob is not None:
        _shade(axis, log_prob, extent)
    dots = axis.scatter([], [], s=6, alpha=0.6, color="black", linewidths=0)
    axis.set(xlim=extent, ylim=extent, aspect="equal")
    drawn, canvas = [], FigureCanvasAgg(figure)
    for k in torch.linspace(0, len(way) - 1, min(frames, len(way))).round().long().tolist():
        dots.set_offsets(way[k].numpy())
        axis.set_title(f"state {k}" if names is None else names[k], fontsize=10)
        canvas.draw()
        pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
        width, height = canvas.get_width_height()
        drawn.append(pixels.reshape(height, width, 4)[..., :3].permute(2, 0, 1).float() / 255)
    return write_animation(path, drawn, fps=fps)


def moments(
    path: str | os.PathLike[str],
    states: Sequence[Tensor],
    *,
    mean: Tensor,
    variance: Tensor,
    title: str = "",
) -> Path:
    r"""Draw how the mean and the variance of a chain's rows tend to those of its law.

    Shaded is where they should be found, four standard errors wide for n rows: the mean within
    $ 2 \sqrt{v / n} $ and, for a law like a Gaussian, the variance within $ 2 v \sqrt{2 / n} $.

    Args:
        path: ``.png``, ``.svg`` or ``.pdf``.
        states: What a sampler's ``steps`` gave, ``[n, D]`` each, two of them or more.
        mean: Of the law, ``[D]``, or ``[states, D]`` if it changes from state to state.
        variance: Of each coordinate, the same.
        title: Words above the figure.

    Returns:
        The path.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: States or moments that do not fit together, or an unknown suffix.
    """
    way = _way(states, plane=False)
    number, n, D = way.shape
    if not all(v.shape in ((D,), (number, D)) for v in (mean, variance)):
        raise ValueError(
            f"mean {list(mean.shape)} and variance {list(variance.shape)} do not suit {number} "
            f"states of {D} coordinates, expected [{D}] or [{number}, {D}]"
        )
    mu, v = (value.detach().cpu().double().expand(number, D) for value in (mean, variance))
    figure, axes = _figure(columns=2)
    drawn = (
        ("mean", way.mean(1), mu, 2 * (v / n).sqrt()),
        ("variance", way.var(1), v, 2 * v * math.sqrt(2 / n)),
    )
    at = range(number)
    for axis, (label, found, exact, slack) in zip(axes, drawn, strict=True):
        for d in range(min(D, 4)):
            (line,) = axis.plot(at, found[:, d].numpy(), label=f"coordinate {d + 1}")
            ends = ((exact + sign * slack)[:, d].numpy() for sign in (-1, 1))
            axis.fill_between(at, *ends, color=line.get_color(), alpha=0.2, linewidth=0)
        axis.set(xlabel="state", ylabel=label)
    if float(v.max()) > 20 * float(v.min()):
        axes[1].set_yscale("log")
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    return _save(figure, path)


def _way(states: Sequence[Tensor], *, plane: bool) -> Tensor:
    """The states as one float64 tensor [states, n, D]."""
    shapes = {tuple(state.shape) for state in states}
    fit = len(states) > 1 and len(shapes) == 1 and states[0].ndim == 2
    if not fit or (plane and states[0].shape[1] != 2):
        raise ValueError(
            f"{len(states)} states of the shapes {sorted(shapes)} cannot be drawn, expected two "
            f"or more of [n, {2 if plane else 'D'}]"
        )
    return torch.stack(list(states)).detach().cpu().double()


def _shade(
    axis: Any, log_prob: Callable[[Tensor], Tensor], extent: tuple[float, float]
) -> None:
    """Draw a density in the plane."""
    low, high = extent
    fine = torch.linspace(low, high, 160)
    density = log_prob(torch.cartesian_prod(fine, fine)).detach().exp()
    image = density.reshape(160, 160).T.numpy()
    axis.imshow(image, origin="lower", extent=(low, high, low, high), cmap="Blues")


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
