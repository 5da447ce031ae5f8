"""What compilers make of the programs: memory, FLOPs, collectives and the cycles that they estimate.

Imports common, runs, training and configs.
"""
