"""What was chosen on a command line, made: a loss or its views, a canvas, the way down.

An option that was left open is what the loss's card recommends.
"""

from dataclasses import asdict, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

from sdstoolkit.choices import EDITING, TOGETHER, Reward
from sdstoolkit.cli import plugin

if TYPE_CHECKING:
    from sdstoolkit import Canvas, Distiller, Prior

__all__ = ["chosen", "law", "make_canvas", "make_descent", "make_loss", "weight"]


def chosen(options: Any) -> dict[str, Any]:
    """What decides on an image of `sds optimize`, as the manifest records it.

    Args:
        options: Its `Choices`, with the verb's own options.

    Raises:
        ValueError: As `Choices.check`, or views of latents.
        FileNotFoundError: There is no such source.
    """
    from sdstoolkit import jobs, runs

    used = options.loss, options.canvas
    options.check(*used)
    if options.view and _canvas(options).direct:
        raise ValueError(
            f"--view needs an image in the loop, which {options.canvas} have not; use pixels"
        )
    found = {k: v for k, v in options.deciding(*used).items() if k not in runs.EXECUTION}
    found |= runs.of_groups(options, found)
    found["source"] = runs.named(options.source)
    if options.loss in TOGETHER:
        found["seeds"] = list(jobs.parse_seeds(options.seeds))
    return found


def law(name: str, own: Any, t_min: float | None, t_max: float | None) -> Any:
    """A law of t by its name, or else the loss's own; with other ends, where they are given."""
    from sdstoolkit import grids

    ends = {"t_min": t_min, "t_max": t_max}
    given = {k: v for k, v in ends.items() if v is not None}
    if not name:
        return replace(own, **given) if given else own  # which may be any callable
    made = {
        "uniform": grids.UniformLaw,
        "two-stage": grids.TwoStage,
        "linear": grids.LinearAnneal,
        "sqrt": grids.SqrtAnneal,
        "dreamtime": grids.DreamTime,
    }[name]
    return made(**given)


def weight(name: str | None) -> Any:
    """A weight by its name, or None for the loss's own."""
    from sdstoolkit import distill

    return (
        None
        if name is None
        else {
            "sigma2": distill.SigmaSquared,
            "one": distill.Constant,
            "alpha-sigma2": distill.AlphaSigmaSquared,
            "ratio": distill.NoiseRatio,
            "log-ratio": distill.LogNoiseRatio,
            "clipped-ratio": distill.ClippedNoiseRatio,
            "min-snr": distill.MinSNR,
        }[name]()
    )


def make_loss(options: Any, prior: "Prior", source: Any) -> Any:
    """The loss that was chosen, or a view for each prompt."""
    from sdstoolkit.views import View, as_it_is, look_of

    loss = _loss(options, prior, options.prompt, source)
    views = [View(as_it_is, loss)]
    for view in options.view:
        look, found, prompt = view.partition("=")
        if not found:
            raise ValueError(f"--view is {view!r}, expected LOOK=PROMPT: flip='a blue star'")
        views.append(View(look_of(look), _loss(options, prior, prompt, source)))
    return loss if len(views) == 1 else views


def _loss(options: Any, prior: "Prior", prompt: str, source: Any) -> "Distiller":
    """The loss that was chosen, for one prompt."""
    from sdstoolkit import Distiller
    from sdstoolkit.distill import Clip, Normalise

    kind, own = plugin("sdstoolkit.distill", options.loss, Distiller), options.own(options.loss)
    given = own.arguments(prompt) if isinstance(own, Reward) else asdict(own)
    its_law = signature(kind).parameters["t_law"].default
    limits: list[Any] = [Normalise()] if options.normalise else []
    limits += [Clip(options.clip, options.clip)] if options.clip else []
    given |= {
        "negative": options.negative_prompt or None,
        "t_law": law(options.t_law or kind.card.law, its_law, options.t_min, options.t_max),
        "weight": weight(options.weight or kind.card.weight or None),
        "limits": limits or None,
    }
    if options.loss in EDITING:
        if source is None:
            raise ValueError(f"the loss {options.loss} edits an image, give one with --source")
        shows = options.source_prompt or None
        given |= {"source": prior.codec.encode(source), "source_prompt": shows}
    scale = kind.card.scale if options.scale is None else options.scale
    chosen = {k: v for k, v in given.items() if v is not None}
    return kind(prior, options.telling.wish(prior, prompt), scale=scale, **chosen)


def make_descent(options: Any, canvas: "Canvas") -> dict[str, Any]:
    """How `optimize` goes down: as was asked for, or as suits the loss on the canvas.

        theta <- theta - rate Adam(G),   or theta <- theta - rate G

    Args:
        options: the loss by name; optimizer, lr and decay, None for what suits.
        canvas: which knows a learning rate for Adam, and whether its parameters are x_0.

    Returns:
        `lr` and `optimizer` for `optimize`.
    """
    from functools import partial

    from torch.optim import SGD

    from sdstoolkit import Distiller
    from sdstoolkit.optimization import CosineDecay

    card = plugin("sdstoolkit.distill", options.loss, Distiller).card
    optimizer = options.optimizer or (card.optimizer if canvas.direct else "adam")
    suits = canvas.direct and optimizer == card.optimizer
    lr = options.lr or (card.lr if suits else 0.0) or canvas.lr
    fallen = (options.decay, card.decay if suits else None, float(optimizer == "sgd"))
    final = next(part for part in fallen if part is not None)
    made = partial(SGD, lr=lr) if optimizer == "sgd" else None
    return {"lr": CosineDecay(lr, final=final), "optimizer": made}


def make_canvas(options: Any, prior: "Prior", seeds: tuple[int, ...], source: Any) -> "Canvas":
    """The canvas that was chosen, from the source if there is one."""
    given = {k: v for k, v in asdict(options.own(options.canvas)).items() if v != ""}
    if source is not None:
        if options.canvas not in ("pixels", "latents"):
            raise ValueError(f"the canvas {options.canvas} takes no --source; pixels does")
        given["init"] = source
    return _canvas(options)(prior, n=len(seeds), seed=seeds, **given)


def _canvas(options: Any) -> "type[Canvas]":
    """The class of the canvas that was chosen."""
    from sdstoolkit import Canvas

    return plugin("sdstoolkit.canvas", options.canvas, Canvas)
