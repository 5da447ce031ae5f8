"""Training a run in its folder: steps, checks before the start, hooks, costs.

Imports common, tasks, runs and scoring, which scores samples while a run trains.
"""
