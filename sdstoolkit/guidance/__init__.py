"""Guidance: one method a file. Each wraps a `ScoreModel` and is a `ScoreModel`.

A sampler, a solver or a distillation loss that is given a guided model needs to know nothing about
guidance.
"""

from sdstoolkit.guidance.classifier_free import ClassifierFree

__all__ = ["ClassifierFree"]
