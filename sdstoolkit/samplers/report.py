"""How far an inversion can be trusted.

A round trip that closes says nothing of the latent: an exactly reversible solver closes it with a
latent that no sampler would ever draw. So four numbers are reported side by side, a row each,

    round trip   rms of x_0' - x_0,
    prior        z-scores of mean, std and squared norm of x_T / sigma_T against N(0, I),
    latent       rms of x_T - x_T', x_T' from twice the steps, in units of sigma_T,
    gain         the largest |J v| / |v| seen, J = d x_0 / d(x_T / sigma_T), by power iteration,

and in decibels the peak signal-to-noise ratio of the image, and of the codec alone, which no
inversion can exceed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdstoolkit._typing import Image, Rows
from sdstoolkit.codec import Codec
from sdstoolkit.rng import generators, normal
from sdstoolkit.samplers.inverted import Inverted

__all__ = ["Report", "make"]

_FAR = 6.0  # z-score beyond which a latent is off the prior
_STEEP = 100.0  # gain beyond which the map is ill-conditioned
_DELTA = 1e-4


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `ProbabilityFlow.report` found, a number a row, [n]; `str` of it is the text.

    Attributes:
        round_trip: rms of the difference between x_0 and what comes back.
        mean_z, std_z, norm_z: z-scores of the latent x_T / sigma_T against N(0, I).
        latent_error: rms difference to the latent from twice the steps, in units of sigma_T.
        gain: largest growth of a small change of the latent seen; a lower bound. None if left out.
        floor_db: PSNR of the codec's own reconstruction; None without a codec.
        image_db: PSNR of the decoded round trip; None without a codec.
        scale: the guidance scale of the inversion, None if there was no guidance.
        remarks: plain sentences on what is wrong; empty if nothing is.
    """

    round_trip: Rows
    mean_z: Rows
    std_z: Rows
    norm_z: Rows
    latent_error: Rows
    gain: Rows | None = None
    floor_db: Rows | None = None
    image_db: Rows | None = None
    scale: float | None = None
    remarks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            ("round trip, rms", self.round_trip, ".2e"),
            ("latent mean, z-score", self.mean_z, "+.1f"),
            ("latent std, z-score", self.std_z, "+.1f"),
            ("latent norm, z-score", self.norm_z, "+.1f"),
            ("latent error, rms / sigma_T", self.latent_error, ".2e"),
            ("gain of the map", self.gain, ".3g"),
            ("image after the round trip, dB", self.image_db, ".2f"),
            ("codec alone, dB", self.floor_db, ".2f"),
        ]
        lines = [
            f"{name:<32}" + "  ".join(format(v, style) for v in values.tolist())
            for name, values, style in rows
            if values is not None
        ]
        return "\n".join([*lines, *self.remarks])

    def to_dict(self) -> dict[str, object]:
        """The same as lists and numbers, for JSON; an infinite or undefined number is None."""

        def plain(v: object) -> object:
            if isinstance(v, Tensor):
                return [x if math.isfinite(x) else None for x in v.tolist()]
            return v

        return {name: plain(value) for name, value in vars(self).items()}


def make(
    inverted: Inverted,
    back: Tensor,
    finer: Tensor,
    down: Callable[[Tensor], Tensor],
    sigma: float,
    *,
    codec: Codec | None,
    image: Image | None,
    iterations: int,
) -> Report:
    """The report of an inversion from what was walked for it.

    Args:
        inverted: the inversion.
        back: where its replay ends, [n, *shape].
        finer: the latent from twice the steps, [n, *shape].
        down: from a latent, without a companion, to x_0.
        sigma: sigma_T.
        codec: for the decibels, with the image.
        image: what x_0 was encoded from, [n, c, h, w]; or None, as the codec.
        iterations: of the power iteration.
    """
    x_0, x_T = inverted.x_0.to(back), inverted.x_T.to(back)
    z = (x_T / sigma).flatten(1)
    d = z.shape[1]
    guidance = inverted.model.get("guidance")
    scale = guidance.get("scale") if isinstance(guidance, dict) else None
    floor_db = image_db = None
    if codec is not None and image is not None:
        with torch.no_grad():
            floor_db = _psnr(codec.decode(codec.encode(image)), image)
            image_db = _psnr(codec.decode(back.to(image)), image)
    numbers = {
        "round_trip": _rms(back - x_0),
        "mean_z": z.mean(1) * math.sqrt(d),
        "std_z": (z.square().mean(1).sqrt() - 1) * math.sqrt(2 * d),
        "norm_z": (z.square().sum(1) - d) / math.sqrt(2 * d),
        "latent_error": _rms(x_T - finer.to(back)) / sigma,
    }
    gain = _gain(x_T, down, sigma, iterations) if iterations else None
    remarks = _remarks(numbers, gain, scale)
    return Report(
        **numbers, gain=gain, floor_db=floor_db, image_db=image_db, scale=scale, remarks=remarks
    )


def _gain(x_T: Tensor, down: Callable[[Tensor], Tensor], sigma: float, iterations: int) -> Tensor:
    """max |J v| / |v| over v, J v, J J v, ... by finite differences; units of z = x_T / sigma."""
    base = down(x_T)
    rng = generators(range(len(x_T)), "gain")
    v = normal(rng, x_T.shape[1:], dtype=x_T.dtype).to(x_T.device)
    best = x_T.new_zeros(len(x_T))
    for _ in range(iterations):
        v = v / _norm(v).reshape(-1, *(1,) * (v.ndim - 1))
        v = (down(x_T + (_DELTA * sigma) * v) - base) / _DELTA
        best = torch.maximum(best, _norm(v))
    return best


def _remarks(numbers: dict[str, Tensor], gain: Tensor | None, scale: float | None) -> list[str]:
    """A sentence for each thing that is wrong, about the row that is worst."""
    found = []
    names = {"mean_z": "mean", "std_z": "standard deviation", "norm_z": "norm"}
    sizes = {k: torch.where(numbers[k].isfinite(), numbers[k].abs(), math.inf) for k in names}
    worst = max(names, key=lambda k: float(sizes[k].max()))
    row = int(sizes[worst].argmax())
    z, trip = float(numbers[worst][row]), float(numbers["round_trip"][row])
    if not abs(z) <= _FAR:
        closes = "the round trip is exact" if trip < 1e-8 else f"the round trip errs by {trip:.1e}"
        if scale is not None and scale != 1:
            cause = (
                f"the guidance scale of {scale:g} has pushed it there, so invert with a lower "
                "scale (1 is the safest) or from a lower start"
            )
        else:
            cause = "the model finds this image, or this image under this prompt, unlikely"
        found.append(
            f"Row {row}: {closes}, but the latent's {names[worst]} lies {abs(z):.0f} sigma off "
            f"the prior: {cause}."
        )
    if gain is not None and float(gain.max()) > _STEEP:
        row = int(gain.argmax())
        found.append(
            f"Row {row}: a change of the latent grows {float(gain[row]):.2g} times on the way to "
            "the image, so that no number of steps makes the way back reliable."
        )
    return found


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    return -10 * (a - b).square().flatten(1).mean(1).log10()


def _rms(v: Tensor) -> Tensor:
    return v.flatten(1).square().mean(1).sqrt()


def _norm(v: Tensor) -> Tensor:
    return v.flatten(1).norm(dim=1)
