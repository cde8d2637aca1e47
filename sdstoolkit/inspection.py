"""What a model is, what it weighs and what a step with it costs, before anything is run with it.

    peak of a step  ~  weights + what the encoder keeps for its backward pass
    operations      =  rows x network + images x (encoder, forwards and backwards)

Costs are counted on the meta device, where tensors have shapes and no numbers, so that a model
that would take minutes on this machine is looked through in a moment.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.prior import Prior

__all__ = ["Cost", "Weights", "cost", "kept", "reconstruction", "weigh", "weights"]


class Weights(NamedTuple):
    """What a part of a model weighs.

    Attributes:
        part: "network", "text encoder" or "autoencoder".
        parameters: how many numbers.
        bytes: what they take.
        dtypes: their kinds, most first.
    """

    part: str
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]


class Cost(NamedTuple):
    """What one step of score distillation costs.

    Attributes:
        rows: rows that the network is called with.
        encodings: images that go through the encoder and back.
        operations: floating-point operations, additions and multiplications each.
        kept: bytes that the encoder keeps for its backward pass.
    """

    rows: int
    encodings: int
    operations: float
    kept: int


def weights(prior: Prior) -> tuple[Weights, ...]:
    """What the parts of a model weigh; those that it has."""
    parts = (
        ("network", prior.score),
        ("text encoder", prior.text),
        ("autoencoder", prior.codec),
    )
    known = [weigh(part, module) for part, module in parts if isinstance(module, nn.Module)]
    return tuple(found for found in known if found.parameters)


def weigh(part: str, *modules: nn.Module) -> Weights:
    """What some modules weigh together.

    Args:
        part: what to call them.
        modules: whose parameters are counted.
    """
    tensors = [tensor for module in modules for tensor in module.parameters()]
    sizes: dict[str, int] = {}
    for tensor in tensors:
        kind = str(tensor.dtype).removeprefix("torch.")
        sizes[kind] = sizes.get(kind, 0) + tensor.numel() * tensor.element_size()
    dtypes = tuple(sorted(sizes, key=lambda kind: -sizes[kind]))
    return Weights(part, sum(t.numel() for t in tensors), sum(sizes.values()), dtypes)


def reconstruction(prior: Prior, image: Tensor) -> float:
    """How close the autoencoder brings an image back, in decibels; infinite for pixel models.

        PSNR = -10 log_10 mean (decode(encode(image)) - image)^2

    No method that works in the model's space brings an image back more closely. No network
    evaluation; one pass of the encoder and of the decoder.

    Args:
        prior: the model.
        image: [n, c, h, w] in [0, 1], of a size that the codec takes.
    """
    with torch.no_grad():
        x_0 = prior.codec.encode(image.to(prior.device))
        back = prior.codec.decode(x_0).to(image)
    return float(-10 * (back - image).square().mean().log10())


def cost(
    prior: Prior, conditions: Sequence[Condition | None], *, size: tuple[int, int], n: int = 1
) -> Cost:
    """What one step of score distillation costs: encode, call the network, go back to the pixels.

    No network evaluation: it is counted on a copy without numbers.

    Args:
        prior: the model.
        conditions: those that a step compares, of one row each; two for guidance.
        size: height and width of the images.
        n: images.

    Raises:
        ValueError: a size that the codec does not take, or a model that reads its tensors'
            values and so cannot be run without numbers.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    prior.codec.shape(n, *size)
    score, codec = _shell(prior.score), _shell(prior.codec)
    told = [None if c is None else c.to("meta") for c in conditions]
    channels = codec.image_channels
    image = torch.zeros(n, channels, *size, device="meta", requires_grad=True)
    counter = FlopCounterMode(display=False)
    try:
        with counter, sdpa_kernel(SDPBackend.MATH):  # whose products are counted anywhere
            with _keeping(codec) as held:
                x_0 = codec.encode(image)
            with torch.no_grad():
                level = score.schedule.level(0.5, x_0)
                score.outputs(x_0.detach(), level, told)
            x_0.backward(torch.zeros_like(x_0))
    except (RuntimeError, NotImplementedError) as error:
        line = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"{type(prior.score).__name__} cannot be counted without running it: {line}."
        ) from None
    rows = n * len(conditions)
    return Cost(rows, n, float(counter.get_total_flops()), sum(held.values()))


def kept(codec: Codec, *, size: tuple[int, int], n: int = 1) -> int:
    """Bytes that an encoder keeps for its backward pass; counted on a copy without numbers.

    Args:
        codec: the codec.
        size: height and width of the images.
        n: images.

    Raises:
        ValueError: a size that the codec does not take.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    codec.shape(n, *size)
    shell = _shell(codec)
    image = torch.zeros(n, codec.image_channels, *size, device="meta", requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH), _keeping(shell) as held:
        shell.encode(image)
    return sum(held.values())


@contextmanager
def _keeping(codec: nn.Module) -> Iterator[dict[int, int]]:
    """What is kept for a backward pass inside, in bytes by storage, without the parameters."""
    own = {parameter.untyped_storage()._cdata for parameter in codec.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield held


def _shell(module: nn.Module) -> Any:
    """A copy of a module whose parameters and buffers have shapes and no numbers."""
    memo: dict[int, object] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = (
            nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
        )
    return deepcopy(module, memo)
