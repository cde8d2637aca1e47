"""What a verb without an image of its own tells its model: an image and a mask too."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from sdstoolkit.pipelines._telling import Telling

if TYPE_CHECKING:
    from sdstoolkit.prior import Prior


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True, kw_only=True)
class Showing(Telling):
    """What the model is told besides a prompt, if it takes it: see sds models."""

    image: str = ""
    """The image to change (InstructPix2Pix) or to fill in (inpainting)."""
    mask: str = ""
    """Where to fill in: an image of the same size, white there."""

    def show(self, prior: "Prior") -> "Prior":
        """The prior that is told all that is told always; errors are those of `tell`."""
        from sdstoolkit.pictures import open_mask

        image, mask = None, None
        if self.image and "image" in prior.accepts:
            image = self.read(self.image, prior)
            mask = open_mask(self.mask, self.image, prior, how=self.fit)
        return self.tell(prior, image=image, mask=mask)
