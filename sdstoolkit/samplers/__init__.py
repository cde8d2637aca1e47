"""Samplers: one a file. What they need is a score; what they give are draws.

sampler.sample(n, condition=None, seed=0),   sampler.steps(n, condition=None, seed=0)
"""
