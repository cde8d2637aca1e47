"""Tensor aliases: one name for each shape that crosses a public signature.

``n`` counts rows (images, samples); rows come first everywhere. The names of the axes bind within
one call, so a signature that takes two ``State`` says that they have the same shape. The aliases
cost nothing at run time; the tests can check them through jaxtyping's import hook. An argument
whose shape the callee checks itself, with a ``ValueError``, is annotated as a plain ``Tensor``.
"""

from jaxtyping import Float, Float64
from torch import Tensor

Image = Float[Tensor, "n c h w"]
"""Pictures with values in [0, 1]."""

State = Float[Tensor, "n *shape"]
"""What the network sees: x_0, x_t, eps, a score, a velocity."""

Points = Float[Tensor, "n d"]
"""Vectors, one a row."""

Matrices = Float[Tensor, "n d d"]
"""Square matrices, one a row."""

Rows = Float[Tensor, "n"]
"""One number a row."""

Times = Float64[Tensor, "n"]
"""One diffusion time in [0, 1] a row; never in less than float64."""

AnyTimes = Float64[Tensor, "*batch"]
"""Diffusion times of any shape, a scalar included."""
