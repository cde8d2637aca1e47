"""The dtype of a diffusers network, without the walk that asking for it takes every time.

diffusers finds it among the parameters, apart from those that stay in float32 whatever the rest is
cast to, and under a hook that computes in another one than it stores. The walk over the names of
all modules is a tenth of a small network's call. Here it is walked again only where the dtype of a
parameter has changed, in whichever part of the network, so that a cast or a hook is noticed.
"""

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

__all__ = ["dtype_of", "first_floating"]

Seen = tuple[list[tuple[dict[str, Any], str]], list[torch.dtype], torch.dtype | None]

_SEEN: WeakKeyDictionary[nn.Module, Seen] = WeakKeyDictionary()


def dtype_of(network: nn.Module) -> torch.dtype | None:
    """What a network takes: its own word for it, or the dtype of its first floating parameter.

    Args:
        network: any module; one of diffusers has a word for it.

    Returns:
        A dtype, or None for a network without floating-point parameters.
    """
    seen = _SEEN.get(network)
    if seen is not None:
        places, dtypes, dtype = seen
        if [held[name].dtype for held, name in places if held.get(name) is not None] == dtypes:
            return dtype
    places = list(_watched(network))
    dtypes = [held[name].dtype for held, name in places]
    told: Any = network.dtype if hasattr(network, "dtype") else first_floating(network)
    _SEEN[network] = places, dtypes, told
    return told


def first_floating(module: nn.Module) -> torch.dtype | None:
    """The dtype of the first floating-point parameter, None without any.

    Args:
        module: any module.
    """
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), None)


def _watched(network: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """Of each part of a network the first parameter and the largest.

    The first is what diffusers looks at; a cast that leaves out norms and embeddings, and a hook
    that stores in another dtype than it computes in, change the largest.
    """
    for part in (network, *network.children()):
        modules = [part] if part is network else part.modules()
        every = [(m._parameters, name) for m in modules for name in m._parameters]
        held: list[tuple[dict[str, Any], str]] = [
            (parameters, name) for parameters, name in every if parameters[name] is not None
        ]
        if held:
            yield held[0]
            yield max(held, key=lambda place: place[0][place[1]].numel())
