"""Benchmarks, each a program `python -m experiments.benchmarks.NAME`, and the modules that they share.

Imports common, runs, training and configs.
"""
