"""Runs: the networks that a configuration describes, a run's folder, and a trained run.

Imports common and tasks.
"""
