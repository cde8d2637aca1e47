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

__all__ = ["dtype_of"]

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
    told: Any = getattr(network, "dtype", None)
    if told is None:
        told = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
    _SEEN[network] = places, dtypes, told
    return told


def _watched(network: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """Of each part of a network the first parameter and the largest: no change misses both.

    Norms and embeddings, which some casts leave out, are small.
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
