"""Score distillation: losses that pull an image to where a diffusion model finds it likely.

One loss a file; a new one derives from `Distiller` and writes `residual`.
"""

from sdstoolkit.distill.base import Distiller, Last
from sdstoolkit.distill.sds import SDS
from sdstoolkit.distill.weights import AlphaSigmaSquared, Constant, SigmaSquared, Weight

__all__ = ["SDS", "AlphaSigmaSquared", "Constant", "Distiller", "Last", "SigmaSquared", "Weight"]

SHARED = ("weights",)
