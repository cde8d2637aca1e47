"""From what happened to an image, and a method's name, to a sampler of its posterior.

    y = A x_0 + sigma_y n,   x_0 = 2 image - 1,   sigma_y = 2 noise

Everything here is choosing and checking; the methods are in `guidance` and `samplers`.
"""

from typing import Any

import torch
from torch import Tensor

from sdstoolkit.codec import Codec
from sdstoolkit.guidance import DPS, MMPS, DiffPIR, PiGDM
from sdstoolkit.operators import Blur, Downsample, Grey, Mask, Operator
from sdstoolkit.samplers.ddim import DDIM
from sdstoolkit.samplers.repaint import RePaint
from sdstoolkit.score import ScoreModel

__all__ = ["operator_of", "sampler_of"]


def operator_of(options: Any, mask: Tensor | None) -> Operator:
    """What happened to the image.

    Args:
        options: of `sds restore`.
        mask: [1, 1, h, w], white where to fill.

    Raises:
        ValueError: a mask is missing or of no use.
    """
    if (mask is not None) != (options.operator == "inpaint"):
        raise ValueError("--mask and --operator inpaint go together; give both or neither.")
    if mask is not None:
        return Mask((mask < 0.5).float())
    if options.operator == "blur":
        return Blur(options.blur)
    return Grey() if options.operator == "grey" else Downsample(options.factor)


def sampler_of(
    options: Any, model: ScoreModel, codec: Codec, operator: Operator, measured: Tensor
) -> tuple[DDIM, Codec]:
    """The sampler of the restored x_0, and the codec that shows it.

    Args:
        options: of `sds restore`.
        model: the prior's score model, guided or not.
        codec: the prior's.
        operator: what happened to the image.
        measured: the measurement, [1, c, h, w] in [0, 1].

    Raises:
        ValueError: a method that does not take such an operator or model, or a measurement of
            another size than the model's images give.
    """
    device = next(iter(model.parameters()), torch.empty(0)).device
    pixels = type(codec) is Codec
    if not pixels and options.method != "dps":
        raise ValueError(
            f"--method {options.method} is for models of pixels, not of latents; take dps."
        )
    if options.method == "repaint" and not isinstance(operator, Mask):
        raise ValueError("--method repaint fills holes; take another one for this operator.")

    def seen(x_0: Tensor) -> Tensor:
        return operator(x_0 if pixels else 2 * codec.decode(x_0) - 1)

    if isinstance(operator, Mask):
        operator.known = operator.known.to(device)
    with torch.no_grad():
        try:
            shape = seen(torch.zeros(1, *model.shape, device=device)).shape
        except RuntimeError:
            shape = torch.Size()
    y = (2 * measured - 1).to(device)
    if isinstance(operator, Mask) and shape == y.shape:
        y = operator(y)
    if shape != y.shape:
        expected = f"{list(shape)}" if shape else "a mask of the model's size"
        raise ValueError(
            f"The measurement has shape {list(y.shape)}, expected {expected} for this model and "
            "operator; resize it."
        )
    walk = {"steps": options.steps, "eta": options.eta, "start": _start(model)}
    sigma_y = 2 * options.noise
    if options.method == "repaint":
        assert isinstance(operator, Mask)
        return RePaint(model, y, operator.known, **walk), codec
    if options.method == "dps":
        times = DDIM(model, **walk).times
        return DDIM(DPS(model, seen, y, times=times, eta=options.eta), **walk), codec
    methods: dict[str, Any] = {"pigdm": PiGDM, "mmps": MMPS, "diffpir": DiffPIR}
    guided = methods[options.method](model, operator, y, sigma_y=sigma_y)
    return DDIM(guided, **walk), codec


def _start(model: ScoreModel) -> float:
    """Where to begin: 1, or just before, where the measurement still has a say."""
    alpha, _ = model.schedule(torch.ones(1, dtype=torch.float64))
    return 1.0 if float(alpha) > 0 else 0.999
