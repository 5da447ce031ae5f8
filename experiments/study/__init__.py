"""The parts of experiments.solver_study: solvers on problems whose answer is known, and on the checkerboard.

Imports common, runs, training and configs.
"""
