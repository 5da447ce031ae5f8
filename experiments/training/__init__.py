"""Training of a run in its folder: the step, the checks before the start, hooks and costs.

Imports common, tasks, runs and scoring; hooks score samples while a run trains.
"""
