"""Parts of experiments.solver_study: solvers on problems with known answers, and on the checkerboard.

Imports common, runs, training and configs.
"""
