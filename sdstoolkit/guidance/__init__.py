"""Guidance: one method a file. Each wraps a `ScoreModel` and is a `ScoreModel`.

A sampler, a solver or a distillation loss that is given a guided model needs to know nothing about
guidance.
"""

from sdstoolkit.guidance.classifier_free import ClassifierFree
from sdstoolkit.guidance.extrapolated import Extrapolated
from sdstoolkit.guidance.instruct_pix2pix import InstructPix2Pix
from sdstoolkit.guidance.row_norm import RowNorm
from sdstoolkit.guidance.token_norm import TokenNorm

__all__ = ["ClassifierFree", "Extrapolated", "InstructPix2Pix", "RowNorm", "TokenNorm"]
