"""Small models with known answers: exact densities, networks that train in minutes, `shapes`.

    from sdstoolkit.toy import Mixture

Names are imported when they are first used.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "compose": "Negated Product Tempered",
    "densities": "Density Energy Laplace LogProb StudentT log_prob_along",
    "empirical": "Empirical",
    "exact": "ExactScore",
    "mixture": "Gaussian Mixture",
    "mlp": "MLPScore train",
    "points": "POINTS checkerboard moons ring spirals swiss_roll",
    "score_network": "open_score save_score",
    "unet": "UNetScore",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [*sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
