"""Small models with known answers: exact densities, networks that train in minutes, `shapes`.

    from sdstoolkit.toy import Mixture

Names are imported when they are first used.
"""

from importlib import import_module
from typing import Any

_HOME = {"Mixture": "densities"}

__all__ = ["Mixture"]  # noqa: F822 (found by __getattr__)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
