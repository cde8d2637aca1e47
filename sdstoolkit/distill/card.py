"""What a distillation loss says of itself: cost, source, a scale to begin with, weaknesses.

`python benchmarks/tables.py` writes the table of docs/choosing.md anew.
"""

from dataclasses import dataclass

from sdstoolkit import _plugins

__all__ = ["Card", "cards", "table"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """The facts about a loss, at its default options and its recommended scale.

    Where the canvas is x_0 itself, plain gradient descent can be a method's own solver: of the
    flow, a step of descent is a step of Euler's.

    Attributes:
        rows: network evaluations a row and step; (least, most) where they vary.
        passes: how many of them are differentiated, those of `fit` included.
        fitted: network evaluations a row and step of `fit`, besides.
        networks: what is needed besides the prior.
        paper: authors and year.
        link: to the paper.
        scale: of the guidance, to begin with.
        law: of the times, to begin with, as `--t-law` names it; empty is the loss's default.
        weight: of the times, to begin with, as `--weight` names it; empty is the loss's default.
        lr: learning rate on a canvas that is x_0 itself; 0 is the canvas's own.
        optimizer: there, adam or sgd.
        decay: there, the part of the rate left at the end; None is 0 with adam and 1 with sgd.
        bad_at: what it is bad at, in one line.
    """

    rows: int | tuple[int, int]
    passes: int = 0
    fitted: int = 0
    networks: str = "none"
    paper: str
    link: str
    scale: float
    law: str = ""
    weight: str = ""
    lr: float = 0.0
    optimizer: str = "adam"
    decay: float | None = None
    bad_at: str


def cards() -> dict[str, Card]:
    """The card of every loss, by the name of its file."""
    package = "sdstoolkit.distill"
    found = {}
    for name in _plugins.names(package):
        module = _plugins.find(package, name)
        for value in vars(module).values():
            mine = isinstance(value, type) and value.__module__ == module.__name__
            if mine and isinstance(getattr(value, "card", None), Card):
                found[name] = value.card
    return found


def table() -> str:
    """The cards as a table in Markdown."""
    head = "loss | rows a step | with a graph | other networks | scale | times, weight"
    lines = [f"| {head} | on latents | weak at | paper |", "|" + "---|" * 9]
    for name, card in cards().items():
        rows = str(card.rows) if isinstance(card.rows, int) else "{} to {}".format(*card.rows)
        rows += f" + {card.fitted} fitted" if card.fitted else ""
        cells = (
            *(f"`{name}`", rows, str(card.passes), card.networks),
            *(f"{card.scale:g}", ", ".join(filter(None, (card.law, card.weight))) or "its own"),
            _way_down(card),
        )
        lines.append(f"| {' | '.join(cells)} | {card.bad_at} | [{card.paper}]({card.link}) |")
    return "\n".join(lines)


def _way_down(card: Card) -> str:
    """Optimiser, learning rate and what is left of it at the end, as far as they are named."""
    rate = f", {card.lr:g}" if card.lr else ""
    return card.optimizer + rate + (f" to {card.lr * card.decay:g}" if card.decay else "")
