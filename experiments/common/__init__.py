"""Code that every program uses: flags and errors, processes, files, figures, and the choice of solvers.

Imports no other subpackage of experiments.
"""
