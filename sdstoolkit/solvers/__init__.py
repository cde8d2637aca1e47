"""Solvers of the probability-flow ODE: one method a file, both directions by the order of times.

A new one derives from `Solver` and writes `walk`.
"""

from sdstoolkit.solvers.base import Field, Mark, Node, Solver
from sdstoolkit.solvers.bdia import BDIA
from sdstoolkit.solvers.coordinates import Coordinate, Fraction, LogRatio, Ratio
from sdstoolkit.solvers.dopri5 import Dopri5
from sdstoolkit.solvers.dopri5_batch import BatchDopri5
from sdstoolkit.solvers.dpm_solver_2m import DPMSolver2M
from sdstoolkit.solvers.edict import EDICT
from sdstoolkit.solvers.euler import Euler
from sdstoolkit.solvers.exponential_adams import ExponentialAdams
from sdstoolkit.solvers.heun import Heun
from sdstoolkit.solvers.implicit_euler import ImplicitEuler
from sdstoolkit.solvers.obelm import OBELM
from sdstoolkit.solvers.reversible_heun import ReversibleHeun
from sdstoolkit.solvers.rk4 import RK4

__all__ = [
    "BDIA",
    "EDICT",
    "OBELM",
    "RK4",
    "BatchDopri5",
    "Coordinate",
    "DPMSolver2M",
    "Dopri5",
    "Euler",
    "ExponentialAdams",
    "Field",
    "Fraction",
    "Heun",
    "ImplicitEuler",
    "LogRatio",
    "Mark",
    "Node",
    "Ratio",
    "ReversibleHeun",
    "Solver",
]

SHARED = ("coordinates",)
