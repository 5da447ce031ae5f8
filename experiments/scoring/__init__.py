"""Scoring: the cells to sample, evaluators that score them, reports, tables, curves and the likelihood.

Imports common, tasks and runs.
"""
