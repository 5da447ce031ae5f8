"""Scores: the cells to sample, their evaluators, reports, tables, curves and the likelihood.

Imports common, tasks and runs.
"""
