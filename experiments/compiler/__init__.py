"""What compilers make of the programs: memory, FLOPs, collectives and the cycles that they estimate.

Imports common, tasks, runs and training.
"""
