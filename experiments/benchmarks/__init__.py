"""Measurements that users can repeat: python -m experiments.benchmarks.NAME."""
