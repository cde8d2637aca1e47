"""Samplers: one a file. What they need is a score model; what they give are draws.

sampler.sample(n, condition=None, seed=0),   sampler.steps(n, condition=None, seed=0)
"""

from sdstoolkit.samplers.flow import FlowStep, ProbabilityFlow
from sdstoolkit.samplers.inverted import Inverted
from sdstoolkit.samplers.report import Report

__all__ = ["FlowStep", "Inverted", "ProbabilityFlow", "Report"]

SHARED = ("inverted", "report")
