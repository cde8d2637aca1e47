"""Editing: an image under one condition becomes an image under another, one method a file.

A new one derives from `Edit` and writes `edit`.
"""

from sdstoolkit.edit.base import Edit
from sdstoolkit.edit.ddpm import DDPM
from sdstoolkit.edit.flow_edit import FlowEdit
from sdstoolkit.edit.masks import composite
from sdstoolkit.edit.negative_prompt import NegativePrompt
from sdstoolkit.edit.prompt_swap import PromptSwap
from sdstoolkit.edit.sdedit import SDEdit

__all__ = ["DDPM", "Edit", "FlowEdit", "NegativePrompt", "PromptSwap", "SDEdit", "composite"]

SHARED = ("masks",)
