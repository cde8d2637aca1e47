"""What is optimised: one parameterisation of an image a file.

A canvas holds parameters, a row an image; it shows them as `image()` and hands them to a loss as
`x_0()`. A new one derives from `Canvas` and writes `image`.
"""

from sdstoolkit.canvas.base import Canvas
from sdstoolkit.canvas.fourier import Fourier
from sdstoolkit.canvas.latents import Latents
from sdstoolkit.canvas.network import Network
from sdstoolkit.canvas.palette import Palette
from sdstoolkit.canvas.pixels import Pixels
from sdstoolkit.canvas.siren import Siren
from sdstoolkit.canvas.splats import Splats
from sdstoolkit.canvas.strokes import Strokes
from sdstoolkit.canvas.tile import Tile

__all__ = [
    "Canvas",
    "Fourier",
    "Latents",
    "Network",
    "Palette",
    "Pixels",
    "Siren",
    "Splats",
    "Strokes",
    "Tile",
]
