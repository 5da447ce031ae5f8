"""Runs: the networks of a configuration, the folder of a run, and a trained run.

Imports common and tasks.
"""
