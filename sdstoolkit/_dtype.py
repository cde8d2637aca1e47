"""The dtype of a diffusers network, without the walk that asking for it takes every time.

diffusers finds it among the parameters, apart from those that stay in float32 whatever the rest is
cast to, and under a hook that computes in another one than it stores. The walk over the names of
all modules is a tenth of a small network's call. Here it is walked again only where a parameter's
own dtype has changed, so that a cast or a hook is noticed, however it came.
"""

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
    every = [m._parameters for m in network.modules()]
    places = [(held, name) for held in every for name, p in held.items() if p is not None]
    dtypes = [held[name].dtype for held, name in places]
    floating = (d for d in dtypes if d.is_floating_point)
    told: Any = network.dtype if hasattr(network, "dtype") else next(floating, None)
    _SEEN[network] = places, dtypes, told
    return told
