"""What is optimised: one parameterisation of an image a file.

A canvas holds parameters, a row an image; it shows them as `image()` and hands them to a loss as
`x_0()`. A new one derives from `Canvas` and writes `image`.
"""

from sdstoolkit.canvas.base import Canvas
from sdstoolkit.canvas.latents import Latents
from sdstoolkit.canvas.pixels import Pixels

__all__ = ["Canvas", "Latents", "Pixels"]
