"""Score distillation: losses that pull an image to where a diffusion model finds it likely.

One loss a file; a new one derives from `Distiller` and writes `residual`. docs/choosing.md says
which is for what.
"""

from sdstoolkit.distill.asd import ASD
from sdstoolkit.distill.base import Distiller, Last
from sdstoolkit.distill.bridge import Bridge
from sdstoolkit.distill.card import Card, cards
from sdstoolkit.distill.cds import CDS
from sdstoolkit.distill.cfd import CFD
from sdstoolkit.distill.csd import CSD
from sdstoolkit.distill.dds import DDS
from sdstoolkit.distill.ids import IDS
from sdstoolkit.distill.ism import ISM
from sdstoolkit.distill.limits import Clip, Limit, Normalise, UnitNorm
from sdstoolkit.distill.mean_shift import MeanShift
from sdstoolkit.distill.nfsd import NFSD
from sdstoolkit.distill.pds import PDS
from sdstoolkit.distill.red_diff import REDDiff
from sdstoolkit.distill.repulsive import Repulsive
from sdstoolkit.distill.reward import RewardSDS
from sdstoolkit.distill.rfds import RFDS
from sdstoolkit.distill.sdi import SDI
from sdstoolkit.distill.sds import SDS
from sdstoolkit.distill.sjc import SJC
from sdstoolkit.distill.stein import Stein
from sdstoolkit.distill.vsd import VSD
from sdstoolkit.distill.weights import (
    AlphaSigmaSquared,
    ClippedNoiseRatio,
    Constant,
    LogNoiseRatio,
    MinSNR,
    NoiseRatio,
    SigmaSquared,
    Weight,
)

__all__ = [
    "ASD",
    "CDS",
    "CFD",
    "CSD",
    "DDS",
    "IDS",
    "ISM",
    "NFSD",
    "PDS",
    "RFDS",
    "SDI",
    "SDS",
    "SJC",
    "VSD",
    "AlphaSigmaSquared",
    "Bridge",
    "Card",
    "ClippedNoiseRatio",
    "Clip",
    "Constant",
    "Distiller",
    "Last",
    "Limit",
    "LogNoiseRatio",
    "MeanShift",
    "MinSNR",
    "NoiseRatio",
    "Normalise",
    "REDDiff",
    "Repulsive",
    "RewardSDS",
    "SigmaSquared",
    "Stein",
    "UnitNorm",
    "Weight",
    "cards",
]

SHARED = ("card", "limits", "rewards", "weights")
