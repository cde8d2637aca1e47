"""Options of losses and canvases on the command line, and what they make.

An option that belongs to one loss or one canvas is --NAME.OPTION. Only those of the loss and of
the canvas that are used decide on an image; to give another one's is refused, so that nobody
believes it to have an effect.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sdstoolkit.cli import Range, plugin

if TYPE_CHECKING:
    from sdstoolkit import Canvas, Distiller, Prior

T_LAWS = Literal["uniform", "two-stage", "linear", "sqrt", "dreamtime"]
WEIGHTS = Literal[
    "sigma2", "one", "alpha-sigma2", "ratio", "log-ratio", "clipped-ratio", "min-snr"
]
OPTIMIZERS = Literal["adam", "sgd"]
EDITING = ("cds", "dds", "ids", "pds")
TOGETHER = ("repulsive", "vsd")
"""Losses whose seeds are particles of one law."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """Options of one loss or canvas, named as its arguments."""


@dataclass(frozen=True, kw_only=True)
class Asd(Own):
    """Options of the loss asd."""

    eta: Annotated[float, Range(low=0)] = 0.1
    """How much later the second time is: 0 or more."""


@dataclass(frozen=True, kw_only=True)
class Bridge(Own):
    """Options of the loss bridge."""

    target: str = ", sharp, high quality"
    """Added to the prompt, for what the second stage leads to."""
    source: str = ", oversaturated, blurry, noisy, low quality"
    """Added to the prompt, for what it leads away from."""
    switch: Annotated[float, Range(low=0, high=1)] = 0.75
    """When the second stage begins: 0 to 1 of the run."""


@dataclass(frozen=True, kw_only=True)
class Cds(Own):
    """Options of the loss cds."""

    contrast: Annotated[float, Range(low=0)] = 3.0
    """Weight of the term that keeps the structure: 0 or more."""


@dataclass(frozen=True, kw_only=True)
class Cfd(Own):
    """Options of the loss cfd."""

    gamma: Annotated[float, Range(low=0, high=1)] = 0.0
    """Share of the noise that is new in a step: 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Csd(Own):
    """Options of the loss csd."""

    away: Annotated[float, Range()] = 0.5
    """Weight of the step away from the negative prompt: any finite number."""


@dataclass(frozen=True, kw_only=True)
class Ids(Own):
    """Options of the loss ids."""

    iterations: Annotated[int, Range(low=0)] = 3
    """Iterations for the source's noise: 0 or more."""


@dataclass(frozen=True, kw_only=True)
class Ism(Own):
    """Options of the loss ism."""

    interval: Annotated[float, Range(above=0, high=0.99)] = 0.1
    """Time between the two predictions: above 0, at most 0.99."""
    stride: Annotated[float, Range(above=0, high=1)] = 0.2
    """Longest step of the inversion: above 0, at most 1."""


@dataclass(frozen=True, kw_only=True)
class MeanShift(Own):
    """Options of the loss mean_shift."""

    steps: Annotated[int, Range(low=0)] = 0
    """Steps of sampling for a draw instead of a mean: 0 or more."""


@dataclass(frozen=True, kw_only=True)
class Nfsd(Own):
    """Options of the loss nfsd."""

    switch: Annotated[float, Range(low=0, high=1)] = 0.2
    """Time below which the noise is small: 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Pds(Own):
    """Options of the loss pds."""

    identity: Annotated[float, Range(low=0)] = 0.08
    """Weight of the pull to the source: 0 or more."""


@dataclass(frozen=True, kw_only=True)
class Repulsive(Own):
    """Options of the loss repulsive."""

    gamma: Annotated[float, Range()] = 10.0
    """Strength of the repulsion: any finite number."""


@dataclass(frozen=True, kw_only=True)
class Reward(Own):
    """Options of the loss reward."""

    colour: str = ""
    """Mean colour that is rewarded, red,green,blue from 0 to 1, for example 1,0,0."""
    clip: str = ""
    """A folder with a CLIP model, whose likeness to the prompt is rewarded."""
    noises: Annotated[int, Range(low=4)] = 4
    """Noises to choose among in a step: 4 or more."""

    def arguments(self, prompt: str) -> dict[str, Any]:
        """What the loss is made with."""
        from sdstoolkit.distill.rewards import CLIPSimilarity, TargetColour

        if bool(self.colour) == bool(self.clip):
            raise ValueError("the loss reward needs one of --reward.colour and --reward.clip")
        if self.clip:
            return {"noises": self.noises, "reward": CLIPSimilarity(self.clip, prompt)}
        try:
            colour = tuple(float(part) for part in self.colour.split(","))
        except ValueError:
            colour = ()
        return {"noises": self.noises, "reward": TargetColour(colour)}


@dataclass(frozen=True, kw_only=True)
class Rfds(Own):
    """Options of the loss rfds."""

    refine: Annotated[int, Range(low=0)] = 0
    """Refinements of the noise, 1 for RFDS-Rev: 0 or more."""


@dataclass(frozen=True, kw_only=True)
class Sdi(Own):
    """Options of the loss sdi."""

    refreshes: Annotated[int, Range(low=1)] = 40
    """Targets in a run: 1 or more."""
    remember: bool = False
    """Take the last prediction for the noise instead of an inversion."""
    eta: Annotated[float, Range(low=0, high=1)] = 0.3
    """Share of new noise in the inversion: 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Sjc(Own):
    """Options of the loss sjc."""

    reduce_variance: bool = True
    """Take the noise that was drawn out of the gradient."""


@dataclass(frozen=True, kw_only=True)
class Vsd(Own):
    """Options of the loss vsd."""

    rank: Annotated[int, Range(low=1)] = 8
    """Rank of the adapters: 1 or more."""
    lr: Annotated[float, Range(above=0)] = 3e-3
    """Learning rate of the adapters: above 0."""
    fits: Annotated[int, Range(low=0)] = 1
    """Steps of the adapters after each of the images: 0 or more."""


@dataclass(frozen=True, kw_only=True)
class Palette(Own):
    """Options of the canvas palette."""

    colours: str = ""
    """The palette, hexadecimal words such as "ff0000 ffffff"; by default 16 colours."""
    cell: Annotated[int, Range(low=1)] = 2
    """Pixels on the side of a cell: 1 or more."""


@dataclass(frozen=True, kw_only=True)
class Splats(Own):
    """Options of the canvas splats."""

    count: Annotated[int, Range(low=1)] = 128
    """Gaussians in an image: 1 or more."""


@dataclass(frozen=True, kw_only=True)
class Strokes(Own):
    """Options of the canvas strokes."""

    paths: Annotated[int, Range(low=1)] = 24
    """Paths in an image: 1 or more."""
    curves: Annotated[int, Range(low=1)] = 2
    """Curves in a path: 1 or more."""
    filled: bool = False
    """Closed shapes instead of strokes."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The options of every loss and canvas that has some."""

    asd: Asd = field(default_factory=Asd)
    bridge: Bridge = field(default_factory=Bridge)
    cds: Cds = field(default_factory=Cds)
    cfd: Cfd = field(default_factory=Cfd)
    csd: Csd = field(default_factory=Csd)
    ids: Ids = field(default_factory=Ids)
    ism: Ism = field(default_factory=Ism)
    mean_shift: MeanShift = field(default_factory=MeanShift)
    nfsd: Nfsd = field(default_factory=Nfsd)
    pds: Pds = field(default_factory=Pds)
    repulsive: Repulsive = field(default_factory=Repulsive)
    reward: Reward = field(default_factory=Reward)
    rfds: Rfds = field(default_factory=Rfds)
    sdi: Sdi = field(default_factory=Sdi)
    sjc: Sjc = field(default_factory=Sjc)
    vsd: Vsd = field(default_factory=Vsd)
    palette: Palette = field(default_factory=Palette)
    splats: Splats = field(default_factory=Splats)
    strokes: Strokes = field(default_factory=Strokes)

    view: tuple[str, ...] = ()
    """More ways to look, each LOOK="PROMPT": mirror, flip, rotate180, negative, jigsaw, ..."""
    source: str = ""
    """An image to start from; what is edited, for the losses that edit."""
    source_prompt: str = ""
    """What the source shows."""
    t_law: T_LAWS | None = None
    """How noise levels are drawn; by default what suits the loss."""
    t_min: Annotated[float | None, Range(low=0, high=1)] = None
    """Lowest noise level, by default the law's own: 0 to 1."""
    t_max: Annotated[float | None, Range(low=0, high=1)] = None
    """Highest noise level, by default the law's own: 0 to 1."""
    weight: WEIGHTS | None = None
    """How noise levels are weighted; by default the loss's own way."""
    clip: Annotated[float | None, Range(above=0)] = None
    """Bound of the gradient's elements, by default none: above 0."""
    normalise: bool = False
    """Divide the gradient by the mean distance to the denoised image."""

    def own(self, name: str) -> Own:
        """The options of one loss or canvas."""
        return getattr(self, name, Own())

    def check(self, *used: str) -> None:
        """Refuse options of a loss or canvas that is not used.

        Raises:
            ValueError: there are such.
        """
        for name, value in vars(self).items():
            if not isinstance(value, Own) or name in used:
                continue
            for one in fields(value):
                if getattr(value, one.name) != one.default:
                    flag = f"--{name}.{one.name}".replace("_", "-")
                    raise ValueError(f"{flag} has no effect without {name}, which is not used")

    def deciding(self, *used: str) -> dict[str, Any]:
        """The options that decide on an image, by name."""
        every = asdict(self)
        own = {name for name, value in vars(self).items() if isinstance(value, Own)}
        return {name: v for name, v in every.items() if name not in own or (name in used and v)}


def chosen(options: Any) -> dict[str, Any]:
    """What decides on an image of `sds optimize`, as the manifest records it.

    Args:
        options: Its `Choices`, with the verb's own options.

    Raises:
        ValueError: As `Choices.check`.
        FileNotFoundError: There is no such source.
    """
    from sdstoolkit import jobs, runs

    used = options.loss, options.canvas
    options.check(*used)
    found = {k: v for k, v in options.deciding(*used).items() if k not in runs.EXECUTION}
    found |= runs.of_groups(options, found)
    found["source"] = runs.named(options.source)
    if options.loss in TOGETHER:
        found["seeds"] = list(jobs.parse_seeds(options.seeds))
    return found


def law(name: str | None, t_min: float | None, t_max: float | None) -> Any:
    """A law of t by its name, or None for the loss's own."""
    from sdstoolkit import grids

    if name is None and t_min is None and t_max is None:
        return None
    made = {
        "uniform": grids.UniformLaw,
        "two-stage": grids.TwoStage,
        "linear": grids.LinearAnneal,
        "sqrt": grids.SqrtAnneal,
        "dreamtime": grids.DreamTime,
    }[name or "uniform"]
    ends = {"t_min": t_min, "t_max": t_max}
    return made(**{k: v for k, v in ends.items() if v is not None})


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
    limits: list[Any] = [Normalise()] if options.normalise else []
    limits += [Clip(options.clip, options.clip)] if options.clip else []
    given |= {
        "negative": options.negative_prompt or None,
        "t_law": law(options.t_law or kind.card.law or None, options.t_min, options.t_max),
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
        options: the loss and the canvas by name; optimizer, lr and decay, None for what suits.
        canvas: which knows a learning rate for Adam.

    Returns:
        `lr` and `optimizer` for `optimize`.
    """
    from functools import partial

    from torch.optim import SGD

    from sdstoolkit import Distiller
    from sdstoolkit.optimization import CosineDecay

    card = plugin("sdstoolkit.distill", options.loss, Distiller).card
    plain = card.descent if options.canvas == "latents" else 0.0  # its parameters are x_0
    sgd = options.optimizer == "sgd" or (options.optimizer is None and plain > 0)
    lr = options.lr or (plain if sgd and plain else canvas.lr)
    rate = CosineDecay(lr, final=float(sgd) if options.decay is None else options.decay)
    return {"lr": rate, "optimizer": partial(SGD, lr=lr) if sgd else None}


def make_canvas(options: Any, prior: "Prior", seeds: tuple[int, ...], source: Any) -> "Canvas":
    """The canvas that was chosen, from the source if there is one."""
    from sdstoolkit import Canvas

    given = {k: v for k, v in asdict(options.own(options.canvas)).items() if v != ""}
    if source is not None:
        if options.canvas not in ("pixels", "latents"):
            raise ValueError(f"the canvas {options.canvas} takes no --source; pixels does")
        given["init"] = source
    return plugin("sdstoolkit.canvas", options.canvas, Canvas)(
        prior, n=len(seeds), seed=seeds, **given
    )
