"""Editing: an image under one condition becomes an image under another, one method a file.

A new one derives from `Edit` and writes `walk`.
"""

from sdstoolkit.edit.base import Edit, EditStep
from sdstoolkit.edit.cds import CDS
from sdstoolkit.edit.ddpm import DDPM
from sdstoolkit.edit.dds import DDS
from sdstoolkit.edit.fixed_point import FixedPoint
from sdstoolkit.edit.flow_edit import FlowEdit
from sdstoolkit.edit.ids import IDS
from sdstoolkit.edit.masks import Known, blend, composite, shrink
from sdstoolkit.edit.negative_prompt import NegativePrompt
from sdstoolkit.edit.null_text import NullText
from sdstoolkit.edit.pds import PDS
from sdstoolkit.edit.prompt_swap import PromptSwap
from sdstoolkit.edit.sdedit import SDEdit

__all__ = [
    "CDS",
    "DDPM",
    "DDS",
    "IDS",
    "PDS",
    "Edit",
    "EditStep",
    "FixedPoint",
    "FlowEdit",
    "Known",
    "NegativePrompt",
    "NullText",
    "PromptSwap",
    "SDEdit",
    "blend",
    "composite",
    "shrink",
]

SHARED = ("masks",)
