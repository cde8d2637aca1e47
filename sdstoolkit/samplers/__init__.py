"""Samplers: what draws from a score model, one method a file."""

from sdstoolkit.samplers.flow import FlowStep, ProbabilityFlow
from sdstoolkit.samplers.inverted import Inverted
from sdstoolkit.samplers.report import Report

__all__ = ["FlowStep", "Inverted", "ProbabilityFlow", "Report"]

SHARED = ("inverted", "report")
