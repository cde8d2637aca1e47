"""What a verb tells its model besides a prompt: a label, an image, a mask, a hint, an embedding.

An image, a mask and a hint are told always, under the prompt and under what guidance leads away
from; a label and an embedding take the prompt's place.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sdstoolkit.cli import Range

if TYPE_CHECKING:
    from torch import Tensor

    from sdstoolkit.condition import Condition
    from sdstoolkit.prior import Prior

NEEDED = ("image", "mask", "hint", "embedding")  # files, by a model that accepts them
TOLD = (*NEEDED, "label", "strength", "guidance")
Number = tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: the model's own)")


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True, kw_only=True)
class Telling:
    """What the model is told besides a prompt, if it takes it: see sds models."""

    label: Annotated[int | None, Range(low=0), tyro.conf.arg(metavar="INT")] = None
    """The class of the image, for a model of labelled images: 0 or more."""
    hint: str = ""
    """The control image that a ControlNet follows."""
    hint_strength: Annotated[float | None, Range(), Number] = None
    """How far the hint is followed: any finite number; 0 is not at all."""
    guidance: Annotated[float | None, Range(), Number] = None
    """The scale that a model distilled for guidance is told: any finite number."""
    embedding: str = ""
    """For Kandinsky, a .safetensors file with image_embeds and negative_image_embeds."""
    fit: Literal["exact", "crop", "pad"] = "exact"
    """What to do with an image of another size than the model's: refuse it, crop it, or pad it."""
    convert: tyro.conf.FlagCreatePairsOff[bool] = False
    """Read also transparency (on white), 16 bits, CMYK and other colours, by converting them."""

    def read(self, path: str, prior: "Prior") -> "Tensor":
        """An image for a model, brought to its size; errors are those of `pictures.open_image`."""
        from sdstoolkit.pictures import open_image

        return open_image(path, prior, how=self.fit, convert=self.convert)

    def tell(
        self, prior: "Prior", *, image: "Tensor | None" = None, mask: "Tensor | None" = None
    ) -> "Prior":
        """The prior that is told all that is told always.

        Args:
            prior: as it was opened.
            image: [1, c, h, w], told to a model that takes it.
            mask: [1, 1, h, w], likewise.

        Raises:
            ValueError: an option is not taken, one is missing, or a file cannot be read.
        """
        from sdstoolkit.prior import Told

        named = {**vars(self), "strength": self.hint_strength}
        given = {k: v for k, v in named.items() if k in TOLD and v not in ("", None)}
        prior.refuse({k: v for k, v in given.items() if k not in prior.accepts})
        always = {k: v for k, v in given.items() if k in ("strength", "guidance")}
        if self.hint:
            always["hint"] = self.read(self.hint, prior)
        own = {"image": image, "mask": mask}
        always |= {k: v for k, v in own.items() if v is not None and k in prior.accepts}
        missing = [k for k in NEEDED if k in prior.accepts and k not in {*always, *given}]
        if missing:
            flags = " and ".join(f"--{name}" for name in missing)
            raise ValueError(f"{type(prior.score).__name__} takes {prior.takes}; give {flags}")
        if self.embedding:
            always["embedding"] = self._embedding("negative_image_embeds")
        return Told(prior, always) if always else prior

    def leads(self, prompt: str) -> bool:
        """Whether there is something for guidance to lead to."""
        return bool(prompt) or self.label is not None or bool(self.embedding)

    def wish(self, prior: "Prior", prompt: str) -> "str | Condition | None":
        """What is wanted of a prior that was told: the prompt, or what stands in its place."""
        own: dict[str, Any] = {} if self.label is None else {"label": self.label}
        if self.embedding:
            own["embedding"] = self._embedding("image_embeds")
        if not own:
            return prompt or None
        inner: Any = getattr(prior, "prior", prior)
        return inner.condition(prompt or None, **(getattr(prior, "always", {}) | own))

    def condition(self, prior: "Prior", prompt: str) -> "Condition":
        """The same, as a condition."""
        wish = self.wish(prior, prompt)
        return prior.condition(wish) if wish is None or isinstance(wish, str) else wish

    def decides(self) -> dict[str, Any]:
        """Those that were given, all of which decide on an image."""
        from sdstoolkit.runs import named

        plain = asdict(type(self)())
        given = {k: v for k, v in asdict(self).items() if v != plain[k]}
        return {k: named(v) if k in NEEDED else v for k, v in given.items()}

    def _embedding(self, name: str) -> "Tensor":
        """One of the vectors of the file."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            held = load_file(self.embedding)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"the embedding {self.embedding!r} cannot be read: {error}") from None
        if name not in held:
            raise ValueError(f"{self.embedding!r} holds {', '.join(held)}, expected {name} too")
        return held[name]
