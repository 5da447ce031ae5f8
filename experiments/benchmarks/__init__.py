"""Benchmarks, each a program `python -m experiments.benchmarks.NAME`, and what they share.

Imports common, runs, training and configs.
"""
