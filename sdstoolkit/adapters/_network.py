"""What every adapter of a network shares: what the network is handed, and what it is told.

    out = network(c_in x_t, c_noise, condition)

c_in and c_noise are functions of the noise level alone, in the words of EDM (Karras et al., 2022,
https://arxiv.org/abs/2206.00364); a family adds how its network takes its condition.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sdstoolkit._dtype import dtype_of
from sdstoolkit.condition import Condition
from sdstoolkit.noise import NoiseLevel, Schedule
from sdstoolkit.prediction import Parameterization
from sdstoolkit.score import ScoreModel


class Inputs(ABC):
    """What a network is handed for x_t at a level."""

    @abstractmethod
    def __call__(self, x_t: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(c_in x_t, c_noise): [n, *shape] in x_t's dtype, and [n]."""


@dataclass(frozen=True)
class Linear(Inputs):
    """c_in = 1, c_noise = offset + slope t: an index of a table, 1000 t, 1 - t ...

    The index is a float: between two entries of a table it is as smooth as the network.
    """

    slope: float
    offset: float = 0.0

    def __call__(self, x_t: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(x_t, offset + slope t)."""
        noise = self.slope * level.t
        return x_t, noise + self.offset if self.offset else noise


@dataclass(frozen=True)
class LogSigma(Inputs):
    """c_in = 1 / sqrt(sigma^2 + sigma_data^2), c_noise = log(sigma) / 4: EDM's."""

    sigma_data: float

    def __call__(self, x_t: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(c_in x_t, c_noise)."""
        norm = torch.hypot(level.sigma, self.sigma_data * level.alpha)
        return x_t / norm.to(x_t.dtype), level.ratio.flatten().log() / 4


@dataclass(frozen=True)
class Sigma(Inputs):
    """c_in = 1, c_noise = sigma: the score SDE's."""

    def __call__(self, x_t: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(x_t, sigma)."""
        return x_t, level.sigma.flatten()


class Trained(NamedTuple):
    """What a network was trained on, as its scheduler's config says.

    Attributes:
        schedule: alpha(t) and sigma(t).
        parameterization: what the network returns.
        inputs: what it is handed.
        shift: of the times its own sampler visits, t -> shift t / (1 + (shift - 1) t); 1 for none,
            None where it depends on the size of the image.
    """

    schedule: Schedule
    parameterization: Parameterization
    inputs: Inputs
    shift: float | None = 1.0


class NetworkScore(ScoreModel):
    """A diffusers network as a score model; a family writes `call`.

        out = network(c_in x_t, c_noise, condition)

    One network evaluation a row.

    Attributes:
        takes: the names of the condition's tensors; none for an unconditional model.
        additions: what was put to the pretrained model, LoRAs and the like, in words.
        may_take: those that may be left out of it.
        patch: height and width of x_t are multiples of it.

    Args:
        network: the diffusers model.
        trained: what it was trained on.
        shape: of one sample.
    """

    takes: tuple[str, ...] = ()
    may_take: tuple[str, ...] = ()
    patch: int = 1
    network: Any  # of diffusers, which is not imported to name a type

    def __init__(self, network: nn.Module, trained: Trained, shape: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.schedule, self.parameterization, self.inputs, self.shift = trained
        self.shape = tuple(shape)
        self.additions: list[str] = []

    @abstractmethod
    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """The network's own output.

        Args:
            x: c_in x_t, [n, *shape].
            noise: c_noise, float32 [n].
            condition: holds `takes`, n rows; empty for an unconditional model.
        """

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The network's output, as `ScoreModel.output`."""
        told = Condition() if condition is None else condition
        self._check_condition(told)
        if any(size % self.patch for size in x_t.shape[-2:]):
            h, w = x_t.shape[-2:]
            raise ValueError(
                f"x_t is {h} x {w}, expected a height and a width that are multiples of"
                f" {self.patch}, the patches of {type(self.network).__name__}."
            )
        x, noise = self.inputs(x_t, level)
        return self.call(x, noise.to(x_t.device, torch.float32), told)

    def stream(self, device: torch.device) -> None:
        """Keep the layers where they are; each goes to a device while it computes there.

        Raises:
            ValueError: the network cannot be taken apart.
        """
        for network in self.children():
            if not getattr(network, "_supports_group_offloading", False):
                raise ValueError(f"A {type(network).__name__} cannot be taken apart by layers.")
            network.enable_group_offload(  # type: ignore[operator]
                onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda"
            )
        # Holds nothing; it is the first of the parameters, and so says where states belong.
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)

    @property
    def dtype(self) -> torch.dtype | None:
        """The network's, apart from what it keeps in float32 whatever it is loaded as."""
        return dtype_of(self.network)

    def describe(self) -> dict[str, object]:
        """As `ScoreModel.describe`, with the shift of its own sampler and what was added."""
        more: dict[str, object] = {} if self.shift == 1 else {"shift": self.shift}
        more |= {"additions": list(self.additions)} if self.additions else {}
        return super().describe() | more

    def _check_condition(self, condition: Condition) -> None:
        if set(condition) - set(self.may_take) == set(self.takes):
            return
        given = ", ".join(condition) or "none"
        if not self.takes:
            raise ValueError(
                f"The condition has {given}, expected none: the model is unconditional."
            )
        hint = "give prior.condition('...'), or prior.condition('') for the unconditional model"
        raise ValueError(f"The condition has {given}, expected {', '.join(self.takes)}: {hint}.")


def latent_shape(network: nn.Module, autoencoder: nn.Module, *, extra: int = 0) -> tuple[int, ...]:
    """(c, h, w) of one sample of a latent model, from the configs of its two networks.

    Args:
        network: takes c + `extra` channels and returns c, or 2 c where it learns a variance.
        autoencoder: whose latents have c channels.
        extra: channels of what else the network sees, a mask or an image.

    Raises:
        ValueError: the channels do not fit, or the network's config has no size.
    """
    latent: Any = autoencoder.config
    channels = getattr(latent, "latent_channels", None) or latent.z_dim
    config: Any = network.config
    if config.in_channels != channels + extra:
        more = f", expected {channels + extra}" if extra else ""
        raise ValueError(
            f"the network's in_channels is {config.in_channels} and the autoencoder's"
            f" latent_channels is {channels}{more}"
        )
    out = getattr(config, "out_channels", None) or channels
    if out not in (channels, 2 * channels):
        raise ValueError(
            f"the network's out_channels is {out} and the autoencoder's latent_channels is"
            f" {channels}"
        )
    return (channels, *sample_size(network))


def autoencoder_shape(autoencoder: nn.Module) -> tuple[int, ...]:
    """(c, h, w) of one sample where only the autoencoder's config has a size, in pixels.

    Raises:
        ValueError: it has none.
    """
    config: Any = autoencoder.config
    ratio = 2 ** (len(config.block_out_channels) - 1)
    h, w = sample_size(autoencoder) if hasattr(config, "sample_size") else (1024, 1024)
    return config.latent_channels, h // ratio, w // ratio


def sample_size(network: nn.Module) -> tuple[int, int]:
    """Height and width of the samples that a network was made for, from its config.

    Raises:
        ValueError: there is none.
    """
    config: Any = network.config
    size = config.sample_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if not (isinstance(height, int) and isinstance(width, int)):
        raise ValueError(f"The network has sample_size={size!r}, expected one size or two.")
    return height, width
