"""Options of losses and canvases on the command line; `making` makes them.

An option that belongs to one loss or one canvas is --NAME.OPTION. Only those of the loss and of
the canvas that are used decide on an image; to give another one's is refused, so that nobody
believes it to have an effect.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from sdstoolkit.cli import Range

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

    away: Annotated[float, Range()] = 1.0
    """Weight, at the end, of the step away from the negative prompt: any finite number."""
    hold: Annotated[int, Range(low=1)] = 20
    """Steps for which the noise is kept at first: 1 or more."""
    until: Annotated[float, Range(low=0, high=1)] = 0.4
    """Progress from which on the noise is new in every step: 0 to 1."""


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

    rank: Annotated[int, Range(low=1)] = 16
    """Rank of the adapters: 1 or more."""
    lr: Annotated[float, Range(above=0)] = 5e-3
    """Learning rate of the adapters: above 0."""
    fits: Annotated[int, Range(low=0)] = 1
    """Steps of the adapters after each of the images: 0 or more."""
    hold: Annotated[int, Range(low=1)] = 10_000
    """Steps for which the noise is kept at first: 1 or more."""
    until: Annotated[float, Range(low=0, high=1)] = 1.0
    """Progress from which on the noise is new in every step: 0 to 1."""


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
