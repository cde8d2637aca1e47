"""Guidance: one method a file. Each wraps a `ScoreModel` and is a `ScoreModel`.

A sampler, a solver or a distillation loss that is given a guided model needs to know nothing about
guidance. Those that take a measurement (`DPS`, `PiGDM`, `MMPS`, `DiffPIR`) make a prior the
posterior of an inverse problem.
"""

from sdstoolkit.guidance.apg import AdaptiveProjected
from sdstoolkit.guidance.autoguidance import Autoguidance
from sdstoolkit.guidance.cfg_pp import CFGPlusPlus
from sdstoolkit.guidance.cfg_zero import CFGZero
from sdstoolkit.guidance.classifier_free import ClassifierFree
from sdstoolkit.guidance.compose import Compose
from sdstoolkit.guidance.diffpir import DiffPIR
from sdstoolkit.guidance.diffusers_guider import DiffusersGuider
from sdstoolkit.guidance.dps import DPS
from sdstoolkit.guidance.extrapolated import Extrapolated
from sdstoolkit.guidance.instruct_pix2pix import InstructPix2Pix
from sdstoolkit.guidance.interval import Interval
from sdstoolkit.guidance.mmps import MMPS
from sdstoolkit.guidance.perp_neg import PerpNeg
from sdstoolkit.guidance.perturbed import Perturbed
from sdstoolkit.guidance.pigdm import PiGDM
from sdstoolkit.guidance.rescale import Rescale
from sdstoolkit.guidance.row_norm import RowNorm
from sdstoolkit.guidance.token_norm import TokenNorm

__all__ = [
    "DPS",
    "MMPS",
    "AdaptiveProjected",
    "Autoguidance",
    "CFGPlusPlus",
    "CFGZero",
    "ClassifierFree",
    "Compose",
    "DiffPIR",
    "DiffusersGuider",
    "Extrapolated",
    "InstructPix2Pix",
    "Interval",
    "PerpNeg",
    "Perturbed",
    "PiGDM",
    "Rescale",
    "RowNorm",
    "TokenNorm",
]
